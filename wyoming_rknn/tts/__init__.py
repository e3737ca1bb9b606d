"""Text to speech: one module or package per engine behind one seam."""
