/* Test double of librknnrt.so: the stand-in container, and ONNX Runtime that computes its graph.
 *
 * ONNX Runtime's C interface is a table of functions that only ever grows; the positions used here are those of its
 * first version and are the same in all since.
 */
#define _GNU_SOURCE
#include "double.h"

#include <dlfcn.h>
#include <glob.h>
#include <link.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- ONNX Runtime ---- */

struct ort_base {
    void *const *(*get_api)(uint32_t version);
    const char *(*get_version)(void);
};

typedef void *ort_status; /* NULL is success */

/* name, position in the table, parameters */
#define ORT_FUNCTIONS(F)                                                                                               \
    F(error_message, 2, const char *, (ort_status))                                                                    \
    F(create_env, 3, ort_status, (int severity, const char *, void **))                                                \
    F(create_session, 8, ort_status, (void *env, const void *, size_t, void *options, void **))                        \
    F(run, 9, ort_status,                                                                                              \
      (void *session, void *options, const char *const *, void *const *, size_t, const char *const *, size_t,          \
       void **))                                                                                                       \
    F(create_options, 10, ort_status, (void **))                                                                       \
    F(set_intra_threads, 24, ort_status, (void *, int))                                                                \
    F(set_inter_threads, 25, ort_status, (void *, int))                                                                \
    F(input_count, 30, ort_status, (void *session, size_t *))                                                          \
    F(output_count, 31, ort_status, (void *session, size_t *))                                                         \
    F(input_type, 33, ort_status, (void *session, size_t, void **))                                                    \
    F(output_type, 34, ort_status, (void *session, size_t, void **))                                                   \
    F(input_name, 36, ort_status, (void *session, size_t, void *allocator, char **))                                   \
    F(output_name, 37, ort_status, (void *session, size_t, void *allocator, char **))                                  \
    F(create_tensor, 49, ort_status, (void *memory, void *, size_t, const int64_t *, size_t, int type, void **))       \
    F(to_tensor_info, 55, ort_status, (void *type, void **))                                                           \
    F(element_type, 60, ort_status, (void *info, int *))                                                               \
    F(count_dimensions, 61, ort_status, (void *info, size_t *))                                                        \
    F(dimensions, 62, ort_status, (void *info, int64_t *, size_t))                                                     \
    F(create_cpu_memory, 69, ort_status, (int allocator, int memory, void **))                                         \
    F(allocator_free, 76, ort_status, (void *allocator, void *))                                                       \
    F(default_allocator, 78, ort_status, (void **))                                                                    \
    F(release_status, 93, void, (ort_status))                                                                          \
    F(release_session, 95, void, (void *))                                                                             \
    F(release_value, 96, void, (void *))                                                                               \
    F(release_type, 98, void, (void *))                                                                                \
    F(release_options, 100, void, (void *))

#define MEMBER(name, position, result, parameters) result(*name) parameters;
static struct {
    ORT_FUNCTIONS(MEMBER)
    void *env, *memory, *allocator;
} ort;
static pthread_mutex_t ort_mutex = PTHREAD_MUTEX_INITIALIZER;
static bool ort_ready;

enum { API_VERSION = 10, SEVERITY_ERROR = 3, ARENA_ALLOCATOR = 1, DEFAULT_MEMORY = 0 };

static bool ok(ort_status status)
{
    if (!status)
        return true;
    complain("ONNX Runtime: %s", ort.error_message(status));
    ort.release_status(status);
    return false;
}

static void *open_first(const char *pattern)
{
    glob_t found;
    void *library = NULL;
    if (glob(pattern, 0, NULL, &found) == 0)
        for (size_t i = 0; i < found.gl_pathc && !library; i++)
            library = dlopen(found.gl_pathv[i], RTLD_NOW | RTLD_LOCAL);
    globfree(&found);
    return library;
}

static const char IN_PACKAGES[] = "onnxruntime/capi/libonnxruntime.so*";

/* Look where a library lies that the process has loaded: ONNX Runtime itself, or any that came in a wheel. */
static int look_beside(struct dl_phdr_info *loaded, size_t size, void *places)
{
    (void)size;
    const char *name = loaded->dlpi_name;
    char(*paths)[2][4096] = places;
    const char *own = strstr(name, "libonnxruntime.so"), *wheels = strstr(name, "-packages/");
    if (own)
        snprintf((*paths)[0], sizeof (*paths)[0], "%s", name);
    else if (wheels) {
        char place[4096];
        int folder = (int)(wheels - name) + (int)strlen("-packages/");
        if (snprintf(place, sizeof place, "%.*s%s", folder, name, IN_PACKAGES) < (int)sizeof place) {
            glob_t found;
            if (glob(place, 0, NULL, &found) == 0)
                memcpy((*paths)[1], place, sizeof place);
            globfree(&found);
        }
    }
    return 0;
}

static void *open_library(void)
{
    setenv("ORT_DISABLE_TELEMETRY", "1", 0);
    const char *chosen = getenv("RKNN_DOUBLE_ORT");
    if (chosen && *chosen)
        return dlopen(chosen, RTLD_NOW | RTLD_LOCAL);
    char beside[2][4096] = {"", ""}, place[4096 + 128];
    dl_iterate_phdr(look_beside, &beside);
    void *library = beside[0][0] ? dlopen(beside[0], RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!library && beside[1][0])
        library = open_first(beside[1]);
    const char *environment = getenv("VIRTUAL_ENV");
    if (!library && environment && strlen(environment) < 4096) {
        snprintf(place, sizeof place, "%s/lib/python3*/site-packages/%s", environment, IN_PACKAGES);
        library = open_first(place);
    }
    static const char *const usual[] = {"/usr/local/lib/python3*/*-packages/", "/usr/lib/python3*/*-packages/"};
    for (size_t i = 0; i < sizeof usual / sizeof *usual && !library; i++) {
        snprintf(place, sizeof place, "%s%s", usual[i], IN_PACKAGES);
        library = open_first(place);
    }
    if (!library)
        library = dlopen("libonnxruntime.so.1", RTLD_NOW | RTLD_LOCAL);
    return library ? library : dlopen("libonnxruntime.so", RTLD_NOW | RTLD_LOCAL);
}

static bool load_ort(void)
{
    void *library = open_library();
    if (!library) {
        complain("libonnxruntime.so is not found, which computes the graphs; set RKNN_DOUBLE_ORT to its path");
        return false;
    }
    const struct ort_base *(*get_base)(void);
    *(void **)&get_base = dlsym(library, "OrtGetApiBase");
    void *const *api = get_base ? get_base()->get_api(API_VERSION) : NULL;
    if (!api) {
        complain("the libonnxruntime.so found is older than 1.%d", API_VERSION);
        return false;
    }
#define BIND(name, position, result, parameters) *(void **)&ort.name = api[position];
    ORT_FUNCTIONS(BIND)
    return ok(ort.create_env(SEVERITY_ERROR, "librknnrt test double", &ort.env)) &&
           ok(ort.create_cpu_memory(ARENA_ALLOCATOR, DEFAULT_MEMORY, &ort.memory)) &&
           ok(ort.default_allocator(&ort.allocator));
}

static bool describe(void *session, size_t i, bool is_output, struct tensor *tensor)
{
    char *name;
    void *type, *info;
    size_t n_dims;
    if (!ok((is_output ? ort.output_name : ort.input_name)(session, i, ort.allocator, &name)))
        return false;
    bool fits = (size_t)snprintf(tensor->name, sizeof tensor->name, "%s", name) < sizeof tensor->name;
    ok(ort.allocator_free(ort.allocator, name));
    if (!fits || !ok((is_output ? ort.output_type : ort.input_type)(session, i, &type)))
        return false;
    bool good = ok(ort.to_tensor_info(type, &info)) && info && ok(ort.element_type(info, &tensor->onnx_type)) &&
                ok(ort.count_dimensions(info, &n_dims)) && n_dims <= MAX_DIMS &&
                ok(ort.dimensions(info, tensor->dims, n_dims)) && tensor_type_of(tensor->onnx_type, &tensor->type);
    ort.release_type(type);
    uint64_t elements = 1;
    for (size_t d = 0; good && d < n_dims; d++) {
        good = tensor->dims[d] > 0 && tensor->dims[d] < UINT32_MAX;
        elements *= good ? (uint64_t)tensor->dims[d] : 1;
        good = good && elements < UINT32_MAX / 8;
    }
    if (!good)
        complain("tensor %s has a free axis or a type that an NPU does not have", tensor->name);
    tensor->n_dims = (uint32_t)n_dims;
    tensor->n_elems = (uint32_t)elements;
    return good;
}

bool model_compute(struct model *model, void *const inputs[], void *const outputs[])
{
    const char *input_names[MAX_TENSORS], *output_names[MAX_TENSORS];
    void *fed[MAX_TENSORS] = {0}, *given[MAX_TENSORS] = {0};
    bool good = true;
    for (uint32_t i = 0; good && i < model->n_inputs; i++) {
        const struct tensor *tensor = model->inputs + i;
        input_names[i] = tensor->name;
        good = ok(ort.create_tensor(ort.memory, inputs[i], tensor_buffer_bytes(tensor), tensor->dims, tensor->n_dims,
                                    tensor->onnx_type, fed + i));
    }
    for (uint32_t i = 0; good && i < model->n_outputs; i++) {
        const struct tensor *tensor = model->outputs + i;
        output_names[i] = tensor->name;
        good = ok(ort.create_tensor(ort.memory, outputs[i], tensor_buffer_bytes(tensor), tensor->dims, tensor->n_dims,
                                    tensor->onnx_type, given + i));
    }
    good = good && ok(ort.run(model->session, NULL, input_names, fed, model->n_inputs, output_names, model->n_outputs,
                              given));
    for (uint32_t i = 0; i < MAX_TENSORS; i++) {
        if (fed[i])
            ort.release_value(fed[i]);
        if (given[i])
            ort.release_value(given[i]);
    }
    return good;
}

/* ---- the container ---- */

static const char MARKER[16] = "RKNN-TEST-DOUBLE";

static uint64_t number_at(const unsigned char *bytes)
{
    uint64_t number;
    memcpy(&number, bytes, sizeof number);
    return number;
}

/* RK3566 and RK3568 have the same NPU. */
static bool same_soc(const char *name, size_t size, const char *soc)
{
    static const char *const twins[] = {"rk3566", "rk3568"};
    bool listed[2] = {false, false};
    for (int i = 0; i < 2; i++) {
        listed[0] |= size == strlen(twins[i]) && memcmp(name, twins[i], size) == 0;
        listed[1] |= strcmp(soc, twins[i]) == 0;
    }
    return (listed[0] && listed[1]) || (size == strlen(soc) && memcmp(name, soc, size) == 0);
}

static bool is_for(const char *trailer, size_t size, const char *soc)
{
    const char *end = trailer + size, *list = memmem(trailer, size, "\"target_platform\"", 17);
    list = list ? memchr(list, '[', (size_t)(end - list)) : NULL;
    const char *close = list ? memchr(list, ']', (size_t)(end - list)) : NULL;
    while (close && (list = memchr(list, '"', (size_t)(close - list)))) {
        const char *name = list + 1, *quote = memchr(name, '"', (size_t)(close - name));
        if (!quote)
            return false;
        if (same_soc(name, (size_t)(quote - name), soc))
            return true;
        list = quote + 1;
    }
    return false;
}

static bool start_session(struct model *model, const void *onnx)
{
    void *options;
    size_t n_inputs, n_outputs;
    if (!ok(ort.create_options(&options)))
        return false;
    bool good = ok(ort.set_intra_threads(options, 1)) && ok(ort.set_inter_threads(options, 1)) &&
                ok(ort.create_session(ort.env, onnx, model->onnx_bytes, options, &model->session));
    ort.release_options(options);
    good = good && ok(ort.input_count(model->session, &n_inputs)) && n_inputs <= MAX_TENSORS &&
           ok(ort.output_count(model->session, &n_outputs)) && n_outputs <= MAX_TENSORS;
    if (!good)
        return false;
    model->n_inputs = (uint32_t)n_inputs;
    model->n_outputs = (uint32_t)n_outputs;
    for (size_t i = 0; good && i < n_inputs; i++)
        good = describe(model->session, i, false, model->inputs + i);
    for (size_t i = 0; good && i < n_outputs; i++)
        good = describe(model->session, i, true, model->outputs + i);
    return good;
}

int model_open(const void *content, size_t size, const char *soc, struct model **opened)
{
    const unsigned char *bytes = content;
    uint64_t body = size >= 72 ? number_at(bytes + 16) : 0;
    if (size < 72 || memcmp(bytes, "RKNN\0\0\0\0", 8) != 0) {
        complain("this is not an RKNN model");
        return MODEL_INVALID;
    }
    if (number_at(bytes + 8) != 6) {
        complain("Invalid RKNN model version %llu", (unsigned long long)number_at(bytes + 8));
        return MODEL_INVALID;
    }
    if (body > size - 72 || number_at(bytes + 64 + body) != size - 72 - body) {
        complain("the RKNN model is cut off");
        return MODEL_INVALID;
    }
    const unsigned char *end = bytes + 64 + body, *marker = memmem(bytes + 64, body, MARKER, sizeof MARKER);
    if (!marker || end - marker < 32) {
        complain("this is no stand-in model, and the test double runs no others");
        return MODEL_INVALID;
    }
    uint64_t custom = number_at(marker + 16), onnx = number_at(marker + 24);
    if (custom >= 1024 || onnx > (uint64_t)(end - marker - 32) || custom > (uint64_t)(end - marker - 32) - onnx) {
        complain("the stand-in model is broken");
        return MODEL_INVALID;
    }
    if (!is_for((const char *)end + 8, size - 72 - body, soc)) {
        complain("the model is for another SoC than %s", soc);
        return TARGET_PLATFORM_UNMATCH;
    }
    pthread_mutex_lock(&ort_mutex);
    ort_ready = ort_ready || load_ort();
    bool ready = ort_ready;
    pthread_mutex_unlock(&ort_mutex);
    if (!ready)
        return FAIL;
    struct model *model = calloc(1, sizeof *model);
    if (!model)
        return MALLOC_FAIL;
    memcpy(model->custom, marker + 32, custom);
    model->onnx_bytes = onnx;
    if (!start_session(model, marker + 32 + custom)) {
        model_close(model);
        return MODEL_INVALID;
    }
    *opened = model;
    return SUCCESS;
}

void model_close(struct model *model)
{
    if (model->session)
        ort.release_session(model->session);
    free(model);
}
