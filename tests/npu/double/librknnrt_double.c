/* A TEST DOUBLE of Rockchip's librknnrt.so: the same C interface (that of version 2.3.2), no NPU.
 *
 * Written for this project's tests from facts about the interface; it contains nothing of the vendor's. It takes
 * stand-in models (tests/npu/stand_in.py), which carry an ONNX graph in a container with the outer format of a real
 * .rknn file, computes them with the libonnxruntime.so of the Python wheel on one thread, and rounds all float inputs
 * and outputs to float16 as an NPU does. One session serves a model and the contexts duplicated from it.
 *
 * Stricter than the real library, to find mistakes: it refuses a duplicate of a context that was used for anything
 * before, two calls on one context at a time, wrong sizes and misaligned buffers, a run whose inputs are not all set,
 * and outputs before the first run. After a failed run, outputs_get gives what was there before, as the real one does.
 *
 * Not modelled: rounding within the graph, layouts (4-D tensors are as in the graph, NCHW), asynchronous runs and
 * time-outs, dynamic shapes, zero-copy memory, encrypted models, limits of memory.
 *
 * Settings come from the environment, read at rknn_init, as RKNN_DOUBLE_<NAME>=VALUE, and from lines <NAME>=VALUE of
 * the file that RKNN_DOUBLE_CONTROL names, which go before and count as soon as the file changes (replace it by
 * rename, or a half-written one may be read). An unknown name or value fails rknn_init.
 *
 *   ORT           path of libonnxruntime.so; by default it is looked for beside the libraries that the process has
 *                 loaded from wheels, in $VIRTUAL_ENV and in the system's places (environment only)
 *   CONTROL, LOG  path of the control file; path of the argument log, a line for each call (environment only)
 *   SOC           rk3588 (3 cores, the default), rk3576 (2), any other (1, no core masks); init fails with -13 on a
 *                 model for another SoC (rk3566 and rk3568 count as one)
 *   VERSION       of the library, by default "2.3.2 (double)"; DRIVER by default "0.9.8"
 *   RUN_MS        what a run takes at least, computing included. A core does one run at a time, several cores run at
 *                 once; without a core mask a run takes an idle core
 *   INIT_RC, DUP_RC, QUERY_RC, CORE_MASK_RC, INPUTS_RC, RUN_RC, OUTPUTS_RC, RELEASE_RC, DESTROY_RC
 *                 what the call returns instead of success (-1, -6, ...)
 *   OUTPUT        right, zeros, nan, inf, or wrong (half of every value)
 *   HANG          none, all, or the number of a core: runs on it do not end until the control file says otherwise
 *   FAULT_CORE    all, or the core that RUN_RC and OUTPUT are limited to
 *   GOOD_RUNS     runs of the process that succeed before RUN_RC, OUTPUT and HANG begin, counted from the last
 *                 rknn_init or change of the control file
 *
 * Beside the interface it exports `int rknn_double_contexts(void)`: contexts that are alive.
 */
#include "abi.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- queries ---- */

static void tell_attr(const struct tensor *tensor, uint32_t index, struct tensor_attr *attr)
{
    attr->index = index;
    attr->n_dims = tensor->n_dims;
    for (uint32_t i = 0; i < tensor->n_dims; i++)
        attr->dims[i] = (uint32_t)tensor->dims[i];
    memcpy(attr->name, tensor->name, sizeof attr->name);
    attr->n_elems = tensor->n_elems;
    attr->size = attr->size_with_stride = tensor->n_elems * type_bytes(tensor->type);
    attr->fmt = tensor->n_dims == 4 ? FORMAT_NCHW : FORMAT_UNDEFINED;
    attr->type = tensor->type;
    attr->scale = 1;
}

static int query(struct context *context, const struct settings *settings, int32_t command, void *info, uint32_t size)
{
    union {
        struct input_output_num number;
        struct tensor_attr attr;
        struct perf_run perf;
        struct sdk_version version;
        struct mem_size memory;
        struct custom_string custom;
    } answer;
    const struct model *model = context->model;
    uint32_t bytes = 0, index;
    memset(&answer, 0, sizeof answer);
    switch (command) {
    case QUERY_IN_OUT_NUM:
        answer.number = (struct input_output_num){model->n_inputs, model->n_outputs};
        bytes = sizeof answer.number;
        break;
    case QUERY_INPUT_ATTR:
    case QUERY_OUTPUT_ATTR:
    case QUERY_CURRENT_INPUT_ATTR:
    case QUERY_CURRENT_OUTPUT_ATTR: {
        bool is_input = command == QUERY_INPUT_ATTR || command == QUERY_CURRENT_INPUT_ATTR;
        if (!info || size < sizeof index)
            return PARAM_INVALID;
        memcpy(&index, info, sizeof index);
        if (index >= (is_input ? model->n_inputs : model->n_outputs))
            return PARAM_INVALID;
        tell_attr((is_input ? model->inputs : model->outputs) + index, index, &answer.attr);
        bytes = sizeof answer.attr;
        break;
    }
    case QUERY_PERF_RUN:
        answer.perf.run_duration = (int64_t)(context->run_ms * 1e3);
        bytes = sizeof answer.perf;
        break;
    case QUERY_SDK_VERSION:
        memcpy(answer.version.api_version, settings->version, sizeof settings->version);
        memcpy(answer.version.drv_version, settings->driver, sizeof settings->driver);
        bytes = sizeof answer.version;
        break;
    case QUERY_MEM_SIZE:
        answer.memory.total_weight_size = (uint32_t)model->onnx_bytes;
        for (uint32_t i = 0; i < model->n_outputs; i++)
            answer.memory.total_internal_size += (uint32_t)tensor_buffer_bytes(model->outputs + i);
        answer.memory.total_dma_allocated_size = model->onnx_bytes + answer.memory.total_internal_size;
        bytes = sizeof answer.memory;
        break;
    case QUERY_CUSTOM_STRING:
        memcpy(answer.custom.string, model->custom, sizeof model->custom);
        bytes = sizeof answer.custom;
        break;
    default:
        return PARAM_INVALID;
    }
    if (!info || size < bytes)
        return PARAM_INVALID;
    memcpy(info, &answer, bytes);
    return SUCCESS;
}

EXPORT int rknn_query(rknn_context handle, int32_t command, void *info, uint32_t size)
{
    int rc;
    struct settings settings = settings_now();
    struct context *context = enter(handle, &rc);
    if (context) {
        context->used = true;
        rc = settings.query_rc ? settings.query_rc : query(context, &settings, command, info, size);
        leave(context);
    }
    log_call("rknn_query", handle, rc, "cmd=%d size=%u", command, size);
    return rc;
}

/* ---- inputs and outputs ---- */

static int take_inputs(struct context *context, uint32_t n, const struct input inputs[])
{
    const struct model *model = context->model;
    bool seen[MAX_TENSORS] = {false};
    if (!inputs || n == 0 || n > model->n_inputs)
        return PARAM_INVALID;
    for (uint32_t i = 0; i < n; i++) {
        const struct input *input = inputs + i;
        if (input->index >= model->n_inputs || seen[input->index] || !input->buf)
            return INPUT_INVALID;
        const struct tensor *tensor = model->inputs + input->index;
        seen[input->index] = true;
        enum tensor_type type = input->pass_through ? tensor->type : (enum tensor_type)input->type;
        uint32_t bytes = type_bytes(type);
        if (bytes == 0 || input->size != tensor->n_elems * bytes || (uintptr_t)input->buf % bytes) {
            complain("input %s has %u bytes of type %d instead of %u elements", tensor->name, input->size,
                     (int)input->type, tensor->n_elems);
            return INPUT_INVALID;
        }
        if (!input->pass_through && (input->fmt < FORMAT_NCHW || input->fmt > FORMAT_UNDEFINED))
            return INPUT_INVALID;
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct tensor *tensor = model->inputs + inputs[i].index;
        tensor_take(tensor, context->inputs[inputs[i].index], inputs[i].buf,
                    inputs[i].pass_through ? tensor->type : (enum tensor_type)inputs[i].type);
        context->is_set[inputs[i].index] = true;
    }
    return SUCCESS;
}

EXPORT int rknn_inputs_set(rknn_context handle, uint32_t n, struct input inputs[])
{
    int rc, fault = settings_now().inputs_rc;
    struct context *context = enter(handle, &rc);
    if (context) {
        context->used = true;
        rc = fault ? fault : take_inputs(context, n, inputs);
        leave(context);
    }
    char sizes[256] = "";
    for (uint32_t i = 0; inputs && i < n && i < 8; i++)
        snprintf(sizes + strlen(sizes), sizeof sizes - strlen(sizes), "%s%u:%u/t%d/f%d%s", i ? "," : "",
                 inputs[i].index, inputs[i].size, inputs[i].type, inputs[i].fmt, inputs[i].pass_through ? "/p" : "");
    log_call("rknn_inputs_set", handle, rc, "n=%u inputs=%s", n, sizes);
    return rc;
}

static bool lend(struct context *context, struct output *output)
{
    uint32_t elements = context->model->outputs[output->index].n_elems;
    struct loan *loan = malloc(sizeof *loan);
    void *buf = loan ? malloc((size_t)elements * 8) : NULL;
    if (!buf) {
        free(loan);
        return false;
    }
    *loan = (struct loan){buf, context->loans};
    context->loans = loan;
    output->buf = buf;
    return true;
}

static int give_outputs(struct context *context, uint32_t n, struct output outputs[])
{
    const struct model *model = context->model;
    bool seen[MAX_TENSORS] = {false};
    if (!outputs || n == 0 || n > model->n_outputs)
        return PARAM_INVALID;
    if (!context->ran) {
        complain("outputs are asked for before the first run");
        return OUTPUT_INVALID;
    }
    for (uint32_t i = 0; i < n; i++) {
        struct output *output = outputs + i;
        if (output->index >= model->n_outputs || seen[output->index])
            return OUTPUT_INVALID;
        const struct tensor *tensor = model->outputs + output->index;
        seen[output->index] = true;
        uint32_t element = output->want_float ? sizeof(float) : type_bytes(tensor->type);
        uint32_t bytes = tensor->n_elems * element;
        if (output->is_prealloc && (!output->buf || output->size < bytes || (uintptr_t)output->buf % element)) {
            complain("output %s needs %u bytes, %u were given", tensor->name, bytes, output->size);
            return OUTPUT_INVALID;
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct tensor *tensor = model->outputs + outputs[i].index;
        if (!outputs[i].is_prealloc) {
            if (!lend(context, outputs + i))
                return MALLOC_FAIL;
            outputs[i].size = tensor->n_elems * (outputs[i].want_float ? 4 : type_bytes(tensor->type));
        }
        tensor_give(tensor, context->outputs[outputs[i].index], outputs[i].buf, outputs[i].want_float);
    }
    return SUCCESS;
}

EXPORT int rknn_outputs_get(rknn_context handle, uint32_t n, struct output outputs[], struct output_extend *extend)
{
    int rc, fault = settings_now().outputs_rc;
    struct context *context = enter(handle, &rc);
    if (context) {
        context->used = true;
        rc = fault ? fault : give_outputs(context, n, outputs);
        if (extend && rc == SUCCESS)
            extend->frame_id = context->frames;
        leave(context);
    }
    char sizes[256] = "";
    for (uint32_t i = 0; outputs && i < n && i < 8; i++)
        snprintf(sizes + strlen(sizes), sizeof sizes - strlen(sizes), "%s%u:%u%s%s", i ? "," : "", outputs[i].index,
                 outputs[i].size, outputs[i].want_float ? "/float" : "", outputs[i].is_prealloc ? "/prealloc" : "");
    log_call("rknn_outputs_get", handle, rc, "n=%u outputs=%s", n, sizes);
    return rc;
}

static int release(struct context *context, uint32_t n, struct output outputs[])
{
    if (!outputs || n == 0 || n > context->model->n_outputs)
        return PARAM_INVALID;
    for (uint32_t i = 0; i < n; i++) {
        if (outputs[i].is_prealloc)
            continue;
        struct loan **place = &context->loans;
        while (*place && (*place)->buf != outputs[i].buf)
            place = &(*place)->next;
        struct loan *loan = *place;
        if (!loan) {
            complain("an output is released that was not lent");
            return OUTPUT_INVALID;
        }
        *place = loan->next;
        free(loan->buf);
        free(loan);
    }
    return SUCCESS;
}

EXPORT int rknn_outputs_release(rknn_context handle, uint32_t n, struct output outputs[])
{
    int rc, fault = settings_now().release_rc;
    struct context *context = enter(handle, &rc);
    if (context) {
        rc = release(context, n, outputs);
        if (fault)
            rc = fault;
        leave(context);
    }
    log_call("rknn_outputs_release", handle, rc, "n=%u", n);
    return rc;
}
