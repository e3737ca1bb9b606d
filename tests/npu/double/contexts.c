/* Test double of librknnrt.so: models are loaded, contexts come and go. */
#define _GNU_SOURCE
#include "abi.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static pthread_mutex_t contexts_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct context *contexts;
static rknn_context last_handle;

static void free_context(struct context *context)
{
    for (int i = 0; i < MAX_TENSORS; i++) {
        free(context->inputs[i]);
        free(context->outputs[i]);
    }
    while (context->loans) {
        struct loan *loan = context->loans;
        context->loans = loan->next;
        free(loan->buf);
        free(loan);
    }
    pthread_mutex_lock(&contexts_mutex);
    bool last = context->model && --context->model->users == 0;
    pthread_mutex_unlock(&contexts_mutex);
    if (last)
        model_close(context->model);
    free(context);
}

/* Make a context of `model`, which it uses from now on; 0 when there is no memory. */
static rknn_context add_context(struct model *model)
{
    struct context *context = calloc(1, sizeof *context);
    if (!context)
        return 0;
    bool good = true;
    for (uint32_t i = 0; i < model->n_inputs; i++)
        good = (context->inputs[i] = calloc(1, tensor_buffer_bytes(model->inputs + i))) && good;
    for (uint32_t i = 0; i < model->n_outputs; i++)
        good = (context->outputs[i] = calloc(1, tensor_buffer_bytes(model->outputs + i))) && good;
    if (!good) {
        free_context(context);
        return 0;
    }
    pthread_mutex_lock(&contexts_mutex);
    model->users++;
    context->model = model;
    context->handle = ++last_handle;
    context->next = contexts;
    contexts = context;
    rknn_context handle = context->handle;
    pthread_mutex_unlock(&contexts_mutex);
    return handle;
}

struct context *enter(rknn_context handle, int *rc)
{
    pthread_mutex_lock(&contexts_mutex);
    struct context *context = contexts;
    while (context && context->handle != handle)
        context = context->next;
    bool busy = context && context->busy;
    if (context && !busy)
        context->busy = true;
    pthread_mutex_unlock(&contexts_mutex);
    *rc = !context ? CTX_INVALID : busy ? FAIL : SUCCESS;
    if (busy)
        complain("context %llu is used by two threads at a time", (unsigned long long)handle);
    return busy ? NULL : context;
}

void leave(struct context *context)
{
    pthread_mutex_lock(&contexts_mutex);
    context->busy = false;
    bool doomed = context->doomed;
    pthread_mutex_unlock(&contexts_mutex);
    if (doomed)
        free_context(context);
}

EXPORT int rknn_double_contexts(void)
{
    int count = 0;
    pthread_mutex_lock(&contexts_mutex);
    for (struct context *context = contexts; context; context = context->next)
        count++;
    pthread_mutex_unlock(&contexts_mutex);
    return count;
}

static void *read_whole(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rbe");
    if (!file)
        return NULL;
    char *bytes = NULL;
    if (fseek(file, 0, SEEK_END) == 0 && ftell(file) >= 0) {
        *size = (size_t)ftell(file);
        rewind(file);
        bytes = malloc(*size + 1);
        if (bytes && fread(bytes, 1, *size, file) != *size) {
            free(bytes);
            bytes = NULL;
        }
    }
    fclose(file);
    return bytes;
}

static int init(rknn_context *context, const void *model, uint32_t size, uint32_t flag)
{
    if (!settings_read_environment())
        return FAIL;
    struct settings settings = settings_now();
    if (settings.init_rc)
        return settings.init_rc;
    if (!context || !model || (flag & ~(uint32_t)FLAGS_MODELLED) || (flag & 3) == 3)
        return PARAM_INVALID;
    void *content = NULL;
    size_t bytes = size;
    if (size == 0 && !(content = read_whole(model, &bytes))) {
        complain("%s cannot be read", (const char *)model);
        return FAIL;
    }
    struct model *opened = NULL;
    int rc = model_open(content ? content : model, bytes, settings.soc, &opened);
    free(content);
    if (rc)
        return rc;
    if ((*context = add_context(opened)))
        return SUCCESS;
    model_close(opened);
    return MALLOC_FAIL;
}

EXPORT int rknn_init(rknn_context *context, void *model, uint32_t size, uint32_t flag, struct init_extend *extend)
{
    int rc = init(context, model, size, flag);
    log_call("rknn_init", rc == SUCCESS ? *context : 0, rc, "size=%u flag=0x%x extend=%d", size, flag, extend != NULL);
    return rc;
}

static int duplicate(rknn_context *in, rknn_context *out)
{
    int rc = PARAM_INVALID;
    if (!in || !out)
        return rc;
    struct settings settings = settings_now();
    if (settings.dup_rc)
        return settings.dup_rc;
    struct context *context = enter(*in, &rc);
    if (!context)
        return rc;
    if (context->used) {
        complain("context %llu was used before rknn_dup_context", (unsigned long long)*in);
        rc = FAIL;
    } else {
        *out = add_context(context->model);
        rc = *out ? SUCCESS : MALLOC_FAIL;
    }
    leave(context);
    return rc;
}

EXPORT int rknn_dup_context(rknn_context *in, rknn_context *out)
{
    int rc = duplicate(in, out);
    log_call("rknn_dup_context", in ? *in : 0, rc, "out=%llu", (unsigned long long)(rc == SUCCESS ? *out : 0));
    return rc;
}

EXPORT int rknn_destroy(rknn_context handle)
{
    int rc = settings_now().destroy_rc, loans = 0;
    pthread_mutex_lock(&contexts_mutex);
    struct context **place = &contexts;
    while (*place && (*place)->handle != handle)
        place = &(*place)->next;
    struct context *context = *place;
    bool busy = false;
    if (context) {
        *place = context->next;
        busy = context->doomed = context->busy;
        for (struct loan *loan = busy ? NULL : context->loans; loan; loan = loan->next)
            loans++;
    }
    pthread_mutex_unlock(&contexts_mutex);
    if (!context)
        rc = CTX_INVALID;
    else if (!busy)
        free_context(context);
    log_call("rknn_destroy", handle, rc, "while_running=%d unreleased=%d", busy, loans);
    return rc;
}
