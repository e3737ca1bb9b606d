"""ONNX graphs to RKNN models, on x86-64 only: by the vendor's toolkit in an environment of its own."""
