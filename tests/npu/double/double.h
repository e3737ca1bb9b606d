/* Test double of librknnrt.so: what its source files share. See librknnrt_double.c. */
#ifndef RKNN_TEST_DOUBLE_H
#define RKNN_TEST_DOUBLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SUCCESS = 0,
    FAIL = -1,
    MALLOC_FAIL = -4,
    PARAM_INVALID = -5,
    MODEL_INVALID = -6,
    CTX_INVALID = -7,
    INPUT_INVALID = -8,
    OUTPUT_INVALID = -9,
    TARGET_PLATFORM_UNMATCH = -13,
};

enum tensor_type {
    TYPE_FLOAT32 = 0,
    TYPE_FLOAT16 = 1,
    TYPE_INT8 = 2,
    TYPE_UINT8 = 3,
    TYPE_INT16 = 4,
    TYPE_UINT16 = 5,
    TYPE_INT32 = 6,
    TYPE_UINT32 = 7,
    TYPE_INT64 = 8,
    TYPE_BOOL = 9,
};

enum { MAX_DIMS = 16, MAX_NAME = 256, MAX_TENSORS = 64, MAX_CORES = 3 };

/* ---- settings.c: what the environment and the control file ask for ---- */

enum output_fault { OUTPUT_RIGHT, OUTPUT_ZEROS, OUTPUT_NAN, OUTPUT_INF, OUTPUT_WRONG };

enum { NO_CORE = -2, EVERY_CORE = -1 };

struct settings {
    int init_rc, dup_rc, query_rc, core_mask_rc, inputs_rc, run_rc, outputs_rc, release_rc, destroy_rc;
    long good_runs;
    enum output_fault output;
    int fault_core, hang;
    double run_ms;
    char soc[32], version[MAX_NAME], driver[MAX_NAME];
};

/* Read the environment again; false when it has a variable or a value that the double does not know. */
bool settings_read_environment(void);
/* What is asked for now; reads the control file again when it has changed. */
struct settings settings_now(void);
/* Whether the run that begins now is beyond the good ones; counts it. */
bool settings_fault_due(void);
int settings_cores(const char *soc);
/* Append one line to the argument log, if one is kept. */
__attribute__((format(printf, 4, 5))) void log_call(const char *call, uint64_t context, int rc, const char *format,
                                                    ...);
/* Tell on stderr why the double refuses something. */
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
double now_ms(void);

/* ONNX Runtime's numbers for the types of a tensor's elements. */
enum {
    ONNX_FLOAT = 1,
    ONNX_UINT8 = 2,
    ONNX_INT8 = 3,
    ONNX_UINT16 = 4,
    ONNX_INT16 = 5,
    ONNX_INT32 = 6,
    ONNX_INT64 = 7,
    ONNX_BOOL = 9,
    ONNX_FLOAT16 = 10,
    ONNX_UINT32 = 12,
};

/* ---- computing.c: stand-in models and ONNX Runtime ---- */

struct tensor {
    char name[MAX_NAME];
    uint32_t n_dims;
    int64_t dims[MAX_DIMS];
    uint32_t n_elems;
    int onnx_type;              /* of ONNX Runtime's buffer */
    enum tensor_type type;      /* as the NPU has it: float16 for every float */
};

struct model {
    long users;                 /* contexts that share it */
    void *session;
    uint32_t n_inputs, n_outputs;
    struct tensor inputs[MAX_TENSORS], outputs[MAX_TENSORS];
    char custom[1024];
    uint64_t onnx_bytes;
};

/* Open a stand-in container for `soc`; fills *opened or returns an error code. */
int model_open(const void *bytes, size_t size, const char *soc, struct model **opened);
void model_close(struct model *model);
/* Compute all outputs; the buffers are those of tensor_buffer_bytes(). */
bool model_compute(struct model *model, void *const inputs[], void *const outputs[]);

/* ---- numbers.c ---- */

/* What the NPU has for a type of ONNX Runtime's; false for those that it has not. */
bool tensor_type_of(int onnx_type, enum tensor_type *type);
size_t tensor_buffer_bytes(const struct tensor *tensor);
uint32_t type_bytes(enum tensor_type type);
/* Take `from`, elements of `type`, into ONNX Runtime's buffer, floats by way of float16. */
void tensor_take(const struct tensor *tensor, void *buffer, const void *from, enum tensor_type type);
/* Give an output as it is on the NPU, or as float32. */
void tensor_give(const struct tensor *tensor, const void *buffer, void *to, bool as_float);
/* Round to float16 what was computed, and spoil it as a fault asks for. */
void tensor_finish(const struct tensor *tensor, void *buffer, enum output_fault fault);

#endif
