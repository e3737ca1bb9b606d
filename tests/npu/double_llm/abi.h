/* Test double of librkllmrt.so: the structs of its interface. RKLLM_ABI is 123 for 1.2.1 to 1.2.3, 130 for 1.3.0. */
#ifndef RKLLM_TEST_DOUBLE_ABI_H
#define RKLLM_TEST_DOUBLE_ABI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef RKLLM_ABI
#error "RKLLM_ABI must be 123 or 130"
#endif

#define EXPORT __attribute__((visibility("default")))
#define IS_130 (RKLLM_ABI == 130)

enum { NORMAL = 0, WAITING = 1, FINISH = 2, ERROR = 3 };
enum { INPUT_EMBED = 2 };

struct extend_param {
    int32_t base_domain_id;
    int8_t embed_flash, enabled_cpus_num;
    uint32_t enabled_cpus_mask;
    uint8_t n_batch;
    int8_t use_cross_attn;
    uint8_t reserved[104];
};

struct param {
    const char *model_path;
    int32_t max_context_len, max_new_tokens, top_k, n_keep;
    float top_p, temperature, repeat_penalty, frequency_penalty, presence_penalty;
    int32_t mirostat;
    float mirostat_tau, mirostat_eta;
    uint8_t skip_special_token; /* bool in the header; as a byte it can be checked */
#if IS_130
    uint8_t ignore_eos_token;
#endif
    uint8_t is_async;
#if !IS_130
    const char *img_start, *img_end, *img_content;
#endif
    struct extend_param extend;
};

struct embed_input {
    const float *embed;
    size_t n_tokens;
};

struct input {
    const char *role;
    uint8_t enable_thinking;
    int32_t input_type;
    union {
        struct embed_input embed;
        size_t multimodal[IS_130 ? 18 : 6];
    };
};

struct infer_param {
    int32_t mode;
    void *lora, *prompt_cache;
#if IS_130
    void *sampling;
#endif
    int keep_history;
#if IS_130
    int32_t max_new_tokens;
#endif
};

struct numbers {
    const float *values;
    int width, num_tokens;
};

struct result {
    const char *text;
    int32_t token_id;
    struct numbers hidden, logits;
    struct {
        float prefill_ms;
        int prefill_tokens;
        float generate_ms;
        int generate_tokens;
        float memory_mb;
    } perf;
};

typedef int (*result_callback)(struct result *, void *, int);

struct callback {
    result_callback result;
    void *result_userdata;
    void *tokenizer, *tokenizer_userdata;
    void *embed, *embed_userdata;
};

#define CHECK(condition) _Static_assert(condition, #condition)
CHECK(sizeof(struct extend_param) == 120);
CHECK(sizeof(struct param) == (IS_130 ? 184 : 208));
CHECK(offsetof(struct param, extend) == (IS_130 ? 60 : 88));
CHECK(offsetof(struct param, is_async) == (IS_130 ? 58 : 57));
CHECK(sizeof(struct input) == (IS_130 ? 160 : 64));
CHECK(offsetof(struct input, input_type) == 12 && offsetof(struct input, embed) == 16);
CHECK(sizeof(struct infer_param) == (IS_130 ? 40 : 32));
CHECK(offsetof(struct infer_param, keep_history) == (IS_130 ? 32 : 24));
CHECK(sizeof(struct result) == 72 && offsetof(struct result, perf) == 48);
CHECK(sizeof(struct callback) == 48);

#endif
