/* Test double of librknnrt.so: cores, and runs on them. */
#define _GNU_SOURCE
#include "abi.h"

#include <pthread.h>
#include <time.h>

static pthread_mutex_t cores_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t core_freed = PTHREAD_COND_INITIALIZER;
static int taken; /* cores that compute, a bit for each */

/* Wait for the cores of a mask, or for any one when the mask is AUTO (0); return their bits. */
static int take_cores(int mask, int cores)
{
    int all = (1 << cores) - 1, free_cores;
    pthread_mutex_lock(&cores_mutex);
    while (free_cores = all & ~taken, mask ? (mask & all & ~free_cores) != 0 : free_cores == 0)
        pthread_cond_wait(&core_freed, &cores_mutex);
    int held = mask ? mask & all : free_cores & -free_cores;
    taken |= held;
    pthread_mutex_unlock(&cores_mutex);
    return held;
}

static void free_cores(int held)
{
    pthread_mutex_lock(&cores_mutex);
    taken &= ~held;
    pthread_cond_broadcast(&core_freed);
    pthread_mutex_unlock(&cores_mutex);
}

static void sleep_until(double ms)
{
    double left = ms - now_ms();
    if (left > 0) {
        long seconds = (long)(left / 1e3);
        struct timespec time = {.tv_sec = seconds, .tv_nsec = (long)((left - 1e3 * (double)seconds) * 1e6)};
        nanosleep(&time, NULL);
    }
}

static bool covers(int core, int held)
{
    return core == EVERY_CORE || (core >= 0 && (held & 1 << core));
}

static int run_on(struct context *context, int held, double begin_ms)
{
    bool due = settings_fault_due(), told = false;
    struct settings settings = settings_now();
    while (due && covers(settings.hang, held)) {
        if (!told)
            log_call("hang", context->handle, 0, "cores=0x%x", (unsigned)held);
        told = true;
        sleep_until(now_ms() + 5);
        settings = settings_now();
    }
    bool faulty = due && covers(settings.fault_core, held);
    if (faulty && settings.run_rc)
        return settings.run_rc;
    struct model *model = context->model;
    if (!model_compute(model, context->inputs, context->outputs))
        return FAIL;
    for (uint32_t i = 0; i < model->n_outputs; i++)
        tensor_finish(model->outputs + i, context->outputs[i], faulty ? settings.output : OUTPUT_RIGHT);
    sleep_until(begin_ms + settings.run_ms);
    return SUCCESS;
}

EXPORT int rknn_run(rknn_context handle, struct run_extend *extend)
{
    int rc, held = 0;
    double begin_ms = 0, end_ms = 0;
    int cores = settings_cores(settings_now().soc);
    struct context *context = enter(handle, &rc);
    if (context) {
        context->used = true;
        for (uint32_t i = 0; i < context->model->n_inputs; i++)
            if (!context->is_set[i]) {
                complain("input %s is not set", context->model->inputs[i].name);
                rc = INPUT_INVALID;
            }
        if (rc == SUCCESS) {
            held = take_cores(context->core_mask, cores);
            begin_ms = now_ms();
            rc = run_on(context, held, begin_ms);
            end_ms = now_ms();
            free_cores(held);
            context->ran = true;
            context->run_ms = end_ms - begin_ms;
            context->frames++;
            if (extend)
                extend->frame_id = context->frames;
        }
        leave(context);
    }
    log_call("rknn_run", handle, rc, "cores=0x%x begin_ms=%.3f ms=%.3f non_block=%d", (unsigned)held, begin_ms,
             end_ms - begin_ms, extend ? extend->non_block : 0);
    return rc;
}

/* A run has ended when rknn_run returns, so there is nothing to wait for. */
EXPORT int rknn_wait(rknn_context handle, struct run_extend *extend)
{
    int rc;
    (void)extend;
    struct context *context = enter(handle, &rc);
    if (context)
        leave(context);
    log_call("rknn_wait", handle, rc, "%s", "");
    return rc;
}

static int check_mask(int32_t mask, int cores)
{
    if (cores == 1)
        return FAIL;
    bool known = mask == 0 || mask == 1 || mask == 2 || mask == 3 || mask == 0xffff ||
                 (cores == 3 && (mask == 4 || mask == 7));
    return known ? SUCCESS : PARAM_INVALID;
}

EXPORT int rknn_set_core_mask(rknn_context handle, int32_t mask)
{
    int rc;
    struct settings settings = settings_now();
    struct context *context = enter(handle, &rc);
    if (context) {
        context->used = true;
        rc = settings.core_mask_rc ? settings.core_mask_rc : check_mask(mask, settings_cores(settings.soc));
        if (rc == SUCCESS)
            context->core_mask = mask;
        leave(context);
    }
    log_call("rknn_set_core_mask", handle, rc, "mask=0x%x", (unsigned)mask);
    return rc;
}

EXPORT int rknn_set_batch_core_num(rknn_context handle, int number)
{
    int rc, cores = settings_cores(settings_now().soc);
    struct context *context = enter(handle, &rc);
    if (context) {
        context->used = true;
        rc = cores == 1 ? FAIL : number < 1 || number > cores ? PARAM_INVALID : SUCCESS;
        leave(context);
    }
    log_call("rknn_set_batch_core_num", handle, rc, "number=%d", number);
    return rc;
}

/* Stand-in models have fixed shapes. */
EXPORT int rknn_set_input_shapes(rknn_context handle, uint32_t n, struct tensor_attr attrs[])
{
    int rc;
    struct context *context = enter(handle, &rc);
    if (context) {
        context->used = true;
        rc = FAIL;
        leave(context);
    }
    log_call("rknn_set_input_shapes", handle, rc, "n=%u attrs=%d", n, attrs != NULL);
    return rc;
}
