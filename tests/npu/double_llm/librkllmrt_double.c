/* Test double of librkllmrt.so, for 1.2.3 or 1.3.0 (see abi.h).
 *
 * It gives the tokens that it is told to give, is strict about what it is handed, and misbehaves when asked to. It
 * complains on stderr and returns -1 when something is not as the real library's header says.
 *
 * RKLLM_DOUBLE_CONTROL names a file of NAME=VALUE lines, read anew at each call; RKLLM_DOUBLE_LOG one to which a line
 * is appended for each call: `run rc=0 number=1 rows=12 sum=3.5 ...`. The settings, none of which is set at first:
 *
 *   TOKENS=1 2 3          what every run gives; else each row's first number, rounded, and no more than there are rows
 *   SCRIPT=FILE           a line of tokens for each run of the process, the last one for all that follow
 *   HIDDEN=N              floats in a row (default 8)
 *   WAITING_EVERY=N       each Nth token comes in the state WAITING, as one that does not end a character
 *   TOKEN_MS, PREFILL_MS, INIT_MS=N     how long things take: each token but the first, the rows, loading
 *   INIT_RC, TEMPLATE_RC, CLEAR_RC, RUN_RC, ABORT_RC, DESTROY_RC=N
 *   FAULT=error|rc|hang|crash|exit      in a run: state ERROR, return RUN_RC or -1, hang, SIGSEGV, exit code 3
 *   AFTER=N               tokens of a run before the fault (default 0)
 *   INIT_FAULT=hang|crash|garbage       garbage: much is printed to stdout and stderr
 *   IGNORE_ABORT=1        goes on after rkllm_abort, and after the most tokens
 *   LATE_TOKENS=N         tokens that still come after rkllm_abort
 *   NO_FINISH=1           the last callback is left out
 */
#define _GNU_SOURCE
#include "abi.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { MAX_TOKENS = 4096, POISON = 0xA5 };

struct settings {
    char tokens[8192], script[1024], fault[16], init_fault[16];
    int hidden, waiting_every, after, ignore_abort, late_tokens, no_finish;
    int init_rc, template_rc, clear_rc, run_rc, abort_rc, destroy_rc;
    int token_ms, prefill_ms, init_ms;
};

struct model {
    uint32_t magic;
    struct param param;
    result_callback callback;
    void *userdata;
    bool has_template, is_cleared;
    volatile bool is_running, is_aborted;
    int runs;
};

EXPORT const char rkllm_double_version[] =
#ifdef RKLLM_ALONE
    "I rkllm: rkllm-runtime version: %s, rknpu driver version: %s, platform: %s\0" RKLLM_VERSION;
#elif defined(RKLLM_VERSION)
    "I rkllm: rkllm-runtime version: " RKLLM_VERSION ", rknpu driver version: %s, platform: %s";
#else
    "no version";
#endif

#if !IS_130
static char img_text[3][8] = {"start", "end", "content"};
#endif

static void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void complain(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "E rkllm test double: ");
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
}

static void log_call(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void log_call(const char *format, ...)
{
    const char *path = getenv("RKLLM_DOUBLE_LOG");
    if (!path)
        return;
    char line[1024];
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    line[size++] = '\n';
    int file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (file < 0 || write(file, line, (size_t)size) != size)
        complain("the log %s cannot be written", path);
    if (file >= 0)
        close(file);
}

static void pause_ms(int ms)
{
    struct timespec left = {ms / 1000, (ms % 1000) * 1000000L};
    while (ms > 0 && nanosleep(&left, &left) != 0 && errno == EINTR)
        ;
}

static bool set(struct settings *settings, const char *name, const char *value)
{
    const struct {
        const char *name;
        int *number;
        char *text;
        size_t size;
    } all[] = {
        {"TOKENS", NULL, settings->tokens, sizeof settings->tokens},
        {"SCRIPT", NULL, settings->script, sizeof settings->script},
        {"FAULT", NULL, settings->fault, sizeof settings->fault},
        {"INIT_FAULT", NULL, settings->init_fault, sizeof settings->init_fault},
        {"HIDDEN", &settings->hidden, NULL, 0},
        {"WAITING_EVERY", &settings->waiting_every, NULL, 0},
        {"AFTER", &settings->after, NULL, 0},
        {"IGNORE_ABORT", &settings->ignore_abort, NULL, 0},
        {"LATE_TOKENS", &settings->late_tokens, NULL, 0},
        {"NO_FINISH", &settings->no_finish, NULL, 0},
        {"INIT_RC", &settings->init_rc, NULL, 0},
        {"TEMPLATE_RC", &settings->template_rc, NULL, 0},
        {"CLEAR_RC", &settings->clear_rc, NULL, 0},
        {"RUN_RC", &settings->run_rc, NULL, 0},
        {"ABORT_RC", &settings->abort_rc, NULL, 0},
        {"DESTROY_RC", &settings->destroy_rc, NULL, 0},
        {"TOKEN_MS", &settings->token_ms, NULL, 0},
        {"PREFILL_MS", &settings->prefill_ms, NULL, 0},
        {"INIT_MS", &settings->init_ms, NULL, 0},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(name, all[i].name) == 0) {
            if (all[i].text)
                return (size_t)snprintf(all[i].text, all[i].size, "%s", value) < all[i].size;
            *all[i].number = atoi(value);
            return true;
        }
    return false;
}

static struct settings settings_now(void)
{
    struct settings settings = {.hidden = 8, .tokens = "", .script = ""};
    const char *path = getenv("RKLLM_DOUBLE_CONTROL");
    FILE *file = path ? fopen(path, "re") : NULL;
    if (!file)
        return settings;
    char line[9000];
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\r\n")] = 0;
        char *equals = strchr(line, '=');
        if (!line[0])
            continue;
        if (equals)
            *equals = 0;
        if (!equals || !set(&settings, line, equals + 1))
            complain("the control file says %s, which is not a setting or has no such value", line);
    }
    fclose(file);
    return settings;
}

/* Whether memory can be read; what another layout takes for a pointer seldom can. */
static bool is_readable(const void *address, size_t size)
{
    char byte;
    struct iovec local = {&byte, 1}, remote = {(void *)address, 1};
    if (process_vm_readv(getpid(), &local, 1, &remote, 1, 0) != 1)
        return false;
    remote.iov_base = (char *)address + size - 1;
    return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == 1;
}

static struct model *model_of(void *handle)
{
    struct model *model = handle;
    if (!model || !is_readable(model, sizeof *model) || model->magic != 0x4c4c4d21) {
        complain("the handle %p is none", handle);
        return NULL;
    }
    return model;
}

EXPORT struct param rkllm_createDefaultParam(void)
{
    struct param param;
    memset(&param, POISON, sizeof param);
    param.model_path = NULL;
    param.max_context_len = 512, param.max_new_tokens = -1, param.top_k = 40, param.n_keep = 0;
    param.top_p = 0.9f, param.temperature = 0.8f, param.repeat_penalty = 1.1f;
    param.frequency_penalty = param.presence_penalty = 0;
    param.mirostat = 0, param.mirostat_tau = 5, param.mirostat_eta = 0.1f;
    param.skip_special_token = true, param.is_async = false;
#if IS_130
    param.ignore_eos_token = false;
#else
    param.img_start = img_text[0], param.img_end = img_text[1], param.img_content = img_text[2];
#endif
    param.extend.base_domain_id = 0, param.extend.embed_flash = 0, param.extend.enabled_cpus_num = 4;
    param.extend.enabled_cpus_mask = 0xf0, param.extend.n_batch = 1, param.extend.use_cross_attn = 0;
    return param;
}

static bool is_right(const struct param *param)
{
    const struct extend_param *extend = &param->extend;
    for (size_t i = 0; i < sizeof extend->reserved; i++)
        if (extend->reserved[i] != POISON) {
            complain("reserved byte %zu is not that of rkllm_createDefaultParam", i);
            return false;
        }
#if IS_130
    bool same = param->ignore_eos_token == 0;
#else
    bool same = param->img_start == img_text[0] && param->img_end == img_text[1] && param->img_content == img_text[2];
#endif
    if (!same) {
        complain("what nobody should change was changed");
        return false;
    }
    if (!param->model_path || !is_readable(param->model_path, 1) || access(param->model_path, R_OK) != 0) {
        complain("the model cannot be read");
        return false;
    }
    if (param->max_context_len < 1 || param->max_new_tokens < 1 || param->top_k != 1 || param->n_keep != -1 ||
        param->temperature != 1 || param->top_p != 1 || param->repeat_penalty != 1 || param->frequency_penalty != 0 ||
        param->presence_penalty != 0 || param->mirostat != 0 || param->skip_special_token != 0 ||
        param->is_async != 0) {
        complain("a parameter is not what the recipe says");
        return false;
    }
    if (extend->embed_flash != 1 || extend->n_batch != 1 || extend->use_cross_attn != 0 ||
        extend->base_domain_id != 1 || extend->enabled_cpus_num < 1 ||
        __builtin_popcount(extend->enabled_cpus_mask) != extend->enabled_cpus_num) {
        complain("an extended parameter is not what the recipe says");
        return false;
    }
    return true;
}

#if IS_130
EXPORT int rkllm_init(void **handle, struct param *param, struct callback *callback)
#else
EXPORT int rkllm_init(void **handle, struct param *param, result_callback callback)
#endif
{
    struct settings settings = settings_now();
    pause_ms(settings.init_ms);
    if (strcmp(settings.init_fault, "hang") == 0)
        for (;;)
            pause();
    if (strcmp(settings.init_fault, "crash") == 0)
        raise(SIGSEGV);
    if (strcmp(settings.init_fault, "garbage") == 0)
        for (int i = 0; i < 20000; i++) {
            printf("I rkllm: loading rkllm model, part %d\n", i);
            fprintf(stderr, "I rkllm: rkllm-toolkit version: unknown\n");
        }
    printf("I rkllm: %s\n", rkllm_double_version);
    fflush(stdout);
    int rc = settings.init_rc;
    if (!handle || !param || !is_right(param) || !callback)
        rc = -1;
    struct model *model = calloc(1, sizeof *model);
#if IS_130
    if (rc == 0 && (!is_readable(callback, sizeof *callback) || !callback->result || callback->tokenizer ||
                    callback->embed || !is_readable(*(void **)&callback->result, 1))) {
        complain("the callbacks are not as they should be");
        rc = -1;
    }
    if (rc == 0)
        model->callback = callback->result, model->userdata = callback->result_userdata;
#else
    model->callback = callback;
#endif
    log_call("init rc=%d pid=%d context=%d cpus=%d mask=%#x domain=%d", rc, (int)getpid(), param->max_context_len,
             param->extend.enabled_cpus_num, param->extend.enabled_cpus_mask, param->extend.base_domain_id);
    if (rc != 0) {
        free(model);
        return rc;
    }
    model->magic = 0x4c4c4d21;
    model->param = *param;
    *handle = model;
    return 0;
}

EXPORT int rkllm_set_chat_template(void *handle, const char *system, const char *prefix, const char *postfix)
{
    struct model *model = model_of(handle);
    int rc = model && system && prefix && postfix ? settings_now().template_rc : -1;
    if (rc == 0)
        model->has_template = !*system && !*prefix && !*postfix;
    log_call("template rc=%d", rc);
    return rc;
}

EXPORT int rkllm_clear_kv_cache(void *handle, int keep_system_prompt, int *start, int *end)
{
    struct model *model = model_of(handle);
    int rc = model && !start && !end ? settings_now().clear_rc : -1;
    if (rc == 0)
        model->is_cleared = !keep_system_prompt;
    log_call("clear rc=%d keep=%d", rc, keep_system_prompt);
    return rc;
}

EXPORT int rkllm_get_kv_cache_size(void *handle, int *sizes)
{
    (void)handle;
    *sizes = 0;
    return 0;
}

EXPORT int rkllm_abort(void *handle)
{
    struct model *model = model_of(handle);
    if (!model)
        return -1;
    struct settings settings = settings_now();
    int rc = model->is_running ? settings.abort_rc : -1;
    model->is_aborted = true;
    log_call("abort rc=%d running=%d", rc, model->is_running);
    return rc;
}

EXPORT int rkllm_is_running(void *handle)
{
    struct model *model = model_of(handle);
    return model && model->is_running ? IS_130 : !IS_130;
}

EXPORT int rkllm_destroy(void *handle)
{
    struct model *model = model_of(handle);
    int rc = model ? settings_now().destroy_rc : -1;
    log_call("destroy rc=%d", rc);
    if (rc == 0) {
        model->magic = 0;
        free(model);
    }
    return rc;
}

static bool is_input_right(const struct model *model, const struct input *input, const struct infer_param *infer,
                           int hidden)
{
    if (!is_readable(input, sizeof *input) || !is_readable(infer, sizeof *infer)) {
        complain("a structure cannot be read to its end");
        return false;
    }
    if (input->enable_thinking != 0 || input->input_type != INPUT_EMBED || !input->role ||
        !is_readable(input->role, 1) || (*input->role && strcmp(input->role, "user") != 0)) {
        complain("role %p, enable_thinking %d or input_type %d is wrong", (const void *)input->role,
                 input->enable_thinking, input->input_type);
        return false;
    }
    const struct embed_input *embed = &input->embed;
    if (embed->n_tokens < 1 || embed->n_tokens > (size_t)model->param.max_context_len ||
        ((uintptr_t)embed->embed & 3) != 0 ||
        !is_readable(embed->embed, embed->n_tokens * (size_t)hidden * sizeof(float))) {
        complain("%zu rows at %p are wrong", embed->n_tokens, (const void *)embed->embed);
        return false;
    }
    if (infer->mode != 0 || infer->lora || infer->prompt_cache || infer->keep_history != 0) {
        complain("mode, lora_params, prompt_cache_params or keep_history is wrong");
        return false;
    }
#if IS_130
    if (infer->sampling || infer->max_new_tokens < 1 || infer->max_new_tokens > model->param.max_context_len) {
        complain("sampling_params or max_new_tokens %d is wrong", infer->max_new_tokens);
        return false;
    }
#endif
    if (!model->is_cleared || !model->has_template) {
        complain("the cache was not cleared, or a chat template is set");
        return false;
    }
    return true;
}

static int read_tokens(const char *text, int *tokens)
{
    int count = 0;
    for (char *end; count < MAX_TOKENS; text = end, count++) {
        tokens[count] = (int)strtol(text, &end, 10);
        if (end == text)
            break;
    }
    return count;
}

static int choose_tokens(const struct settings *settings, const struct model *model, const struct embed_input *embed,
                         int *tokens)
{
    if (settings->tokens[0])
        return read_tokens(settings->tokens, tokens);
    FILE *file = settings->script[0] ? fopen(settings->script, "re") : NULL;
    if (file) {
        static char line[65536];
        int count = 0;
        for (int i = 0; i < model->runs && fgets(line, sizeof line, file); i++)
            count = read_tokens(line, tokens);
        fclose(file);
        return count;
    }
    int count = 0;
    for (; count < (int)embed->n_tokens && count < MAX_TOKENS; count++)
        tokens[count] = (int)lroundf(embed->embed[(size_t)count * (size_t)settings->hidden]);
    return count;
}

static int misbehave(const struct settings *settings, struct model *model, void *userdata)
{
    const char *fault = settings->fault;
    if (strcmp(fault, "hang") == 0)
        for (;;)
            pause();
    if (strcmp(fault, "crash") == 0)
        raise(SIGSEGV);
    if (strcmp(fault, "exit") == 0)
        _exit(3);
    if (strcmp(fault, "error") == 0) {
        model->callback(NULL, userdata, ERROR);
        return 0;
    }
    return settings->run_rc ? settings->run_rc : -1;
}

EXPORT int rkllm_run(void *handle, struct input *input, struct infer_param *infer, void *userdata)
{
    struct settings settings = settings_now();
    struct model *model = model_of(handle);
    if (!model || !is_input_right(model, input, infer, settings.hidden)) {
        log_call("run rc=-1");
        return -1;
    }
    static int tokens[MAX_TOKENS];
    double sum = 0;
    for (size_t i = 0; i < input->embed.n_tokens * (size_t)settings.hidden; i++)
        sum += input->embed.embed[i];
    model->runs++;
    model->is_aborted = false;
    model->is_running = true;
    int count = choose_tokens(&settings, model, &input->embed, tokens);
    int most = model->param.max_new_tokens;
#if IS_130
    most = infer->max_new_tokens;
#endif
    if (count > most && !settings.ignore_abort)
        count = most;
    userdata = userdata ? userdata : model->userdata;
    pause_ms(settings.prefill_ms);
    int rc = 0, given = 0, late = settings.late_tokens;
    for (; given < count && rc == 0; given++) {
        if (settings.fault[0] && given == settings.after)
            break;
        /* Between tokens; an abort is heard there, and nowhere else. */
        for (int left = given ? settings.token_ms : 0; left > 0 && (!model->is_aborted || settings.ignore_abort);
             left -= 5)
            pause_ms(left < 5 ? left : 5);
        if (model->is_aborted && !settings.ignore_abort && late-- <= 0)
            break;
        bool waits = settings.waiting_every && (given + 1) % settings.waiting_every == 0;
        struct result result = {.text = waits ? NULL : "x", .token_id = tokens[given]};
        int answer = model->callback(&result, userdata, waits ? WAITING : NORMAL);
        if (answer != 0) {
            complain("the callback returned %d", answer);
            rc = -2;
        }
    }
    if (settings.fault[0] && given == settings.after && (!model->is_aborted || settings.ignore_abort))
        rc = misbehave(&settings, model, userdata);
    else if (rc == 0 && !settings.no_finish)
        model->callback(NULL, userdata, FINISH);
    model->is_running = model->is_cleared = false;
    log_call("run rc=%d number=%d rows=%zu sum=%.3f given=%d most=%d", rc, model->runs, input->embed.n_tokens, sum,
             given, most);
    return rc;
}
