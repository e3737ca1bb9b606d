/* Test double of librknnrt.so: the structs of its interface, and contexts. Sizes and offsets are version 2.3.2's. */
#ifndef RKNN_TEST_DOUBLE_ABI_H
#define RKNN_TEST_DOUBLE_ABI_H

#include "double.h"

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t rknn_context;

struct input_output_num {
    uint32_t n_input, n_output;
};

struct tensor_attr {
    uint32_t index, n_dims, dims[16];
    char name[256];
    uint32_t n_elems, size;
    int32_t fmt, type, qnt_type;
    int8_t fl;
    int32_t zp;
    float scale;
    uint32_t w_stride, size_with_stride;
    uint8_t pass_through;
    uint32_t h_stride;
};

struct input {
    uint32_t index;
    void *buf;
    uint32_t size;
    uint8_t pass_through;
    int32_t type, fmt;
};

struct output {
    uint8_t want_float, is_prealloc;
    uint32_t index;
    void *buf;
    uint32_t size;
};

struct init_extend {
    uint64_t ctx;
    int32_t real_model_offset;
    uint32_t real_model_size;
    int32_t model_buffer_fd;
    uint32_t model_buffer_flags;
    uint8_t reserved[112];
};

struct run_extend {
    uint64_t frame_id;
    int32_t non_block, timeout_ms, fence_fd;
};

struct output_extend {
    uint64_t frame_id;
};

struct sdk_version {
    char api_version[256], drv_version[256];
};

struct mem_size {
    uint32_t total_weight_size, total_internal_size;
    uint64_t total_dma_allocated_size;
    uint32_t total_sram_size, free_sram_size, reserved[10];
};

struct custom_string {
    char string[1024];
};

struct perf_run {
    int64_t run_duration;
};

#define SIZE(type, bytes) _Static_assert(sizeof(struct type) == (bytes), #type)
#define PLACE(type, field, offset) _Static_assert(offsetof(struct type, field) == (offset), #type "." #field)
SIZE(input_output_num, 8);
SIZE(tensor_attr, 376);
PLACE(tensor_attr, dims, 8);
PLACE(tensor_attr, name, 72);
PLACE(tensor_attr, n_elems, 328);
PLACE(tensor_attr, size, 332);
PLACE(tensor_attr, fmt, 336);
PLACE(tensor_attr, type, 340);
PLACE(tensor_attr, qnt_type, 344);
PLACE(tensor_attr, fl, 348);
PLACE(tensor_attr, zp, 352);
PLACE(tensor_attr, scale, 356);
PLACE(tensor_attr, w_stride, 360);
PLACE(tensor_attr, size_with_stride, 364);
PLACE(tensor_attr, pass_through, 368);
PLACE(tensor_attr, h_stride, 372);
SIZE(input, 32);
PLACE(input, buf, 8);
PLACE(input, size, 16);
PLACE(input, pass_through, 20);
PLACE(input, type, 24);
PLACE(input, fmt, 28);
SIZE(output, 24);
PLACE(output, is_prealloc, 1);
PLACE(output, index, 4);
PLACE(output, buf, 8);
PLACE(output, size, 16);
SIZE(init_extend, 136);
SIZE(run_extend, 24);
PLACE(run_extend, non_block, 8);
PLACE(run_extend, timeout_ms, 12);
PLACE(run_extend, fence_fd, 16);
SIZE(output_extend, 8);
SIZE(sdk_version, 512);
SIZE(mem_size, 64);
PLACE(mem_size, total_dma_allocated_size, 8);
PLACE(mem_size, reserved, 24);
SIZE(custom_string, 1024);
SIZE(perf_run, 8);

enum {
    QUERY_IN_OUT_NUM = 0,
    QUERY_INPUT_ATTR = 1,
    QUERY_OUTPUT_ATTR = 2,
    QUERY_PERF_RUN = 4,
    QUERY_SDK_VERSION = 5,
    QUERY_MEM_SIZE = 6,
    QUERY_CUSTOM_STRING = 7,
    QUERY_CURRENT_INPUT_ATTR = 14,
    QUERY_CURRENT_OUTPUT_ATTR = 15,
};

enum { FORMAT_NCHW = 0, FORMAT_UNDEFINED = 3 };

/* Priority (0 to 2), ASYNC, COLLECT_PERF, GPU fall-back, SRAM, no nice value. */
enum { FLAGS_MODELLED = 0x3 | 0x4 | 0x8 | 0x400 | 0x800 | 0x1000 | 0x2000 };

/* ---- contexts.c ---- */

struct loan {
    void *buf;
    struct loan *next;
};

struct context {
    rknn_context handle;
    struct model *model;
    struct context *next;
    bool busy, doomed, used, ran;
    int core_mask;
    void *inputs[MAX_TENSORS], *outputs[MAX_TENSORS];
    bool is_set[MAX_TENSORS];
    struct loan *loans;
    double run_ms;
    uint64_t frames;
};

/* Find a context and claim it for one call; NULL with a code when there is none or another call has it. */
struct context *enter(rknn_context handle, int *rc);
void leave(struct context *context);

#endif
