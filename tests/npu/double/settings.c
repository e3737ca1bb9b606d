/* Test double of librknnrt.so: what the environment and the control file ask for, and the log of calls. */
#define _GNU_SOURCE
#include "double.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PREFIX "RKNN_DOUBLE_"

extern char **environ;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct settings from_environment, current;
static char control_path[4096], log_path[4096];
static struct stat control_seen;
static bool is_read, control_known;
static long runs;

double now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

void complain(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    char text[1024];
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(stderr, "E RKNN test double: %s\n", text);
}

int settings_cores(const char *soc)
{
    return strcmp(soc, "rk3588") == 0 ? 3 : strcmp(soc, "rk3576") == 0 ? 2 : 1;
}

static bool to_number(const char *value, double *number)
{
    char *end;
    errno = 0;
    *number = strtod(value, &end);
    return errno == 0 && end != value && *end == 0;
}

static bool to_int(const char *value, int *number)
{
    double wide;
    if (!to_number(value, &wide) || wide != (double)(int)wide)
        return false;
    *number = (int)wide;
    return true;
}

static bool to_core(const char *value, int *core)
{
    if (strcmp(value, "all") == 0)
        *core = EVERY_CORE;
    else if (strcmp(value, "none") == 0)
        *core = NO_CORE;
    else
        return to_int(value, core) && *core >= 0 && *core < MAX_CORES;
    return true;
}

static bool to_text(const char *value, char *text, size_t size)
{
    return (size_t)snprintf(text, size, "%s", value) < size;
}

static bool set(struct settings *settings, const char *name, const char *value)
{
    static const char *const codes[] = {"INIT_RC", "DUP_RC",     "QUERY_RC",   "CORE_MASK_RC", "INPUTS_RC",
                                        "RUN_RC",  "OUTPUTS_RC", "RELEASE_RC", "DESTROY_RC"};
    int *const targets[] = {&settings->init_rc,   &settings->dup_rc,     &settings->query_rc,
                            &settings->core_mask_rc, &settings->inputs_rc, &settings->run_rc,
                            &settings->outputs_rc, &settings->release_rc, &settings->destroy_rc};
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (strcmp(name, codes[i]) == 0)
            return to_int(value, targets[i]);
    if (strcmp(name, "GOOD_RUNS") == 0) {
        int count;
        bool good = to_int(value, &count) && count >= 0;
        if (good)
            settings->good_runs = count;
        return good;
    }
    if (strcmp(name, "OUTPUT") == 0) {
        static const char *const faults[] = {"right", "zeros", "nan", "inf", "wrong"};
        for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
            if (strcmp(value, faults[i]) == 0) {
                settings->output = (enum output_fault)i;
                return true;
            }
        return false;
    }
    if (strcmp(name, "FAULT_CORE") == 0)
        return to_core(value, &settings->fault_core);
    if (strcmp(name, "HANG") == 0)
        return to_core(value, &settings->hang);
    if (strcmp(name, "RUN_MS") == 0)
        return to_number(value, &settings->run_ms) && settings->run_ms >= 0;
    if (strcmp(name, "SOC") == 0)
        return to_text(value, settings->soc, sizeof settings->soc);
    if (strcmp(name, "VERSION") == 0)
        return to_text(value, settings->version, sizeof settings->version);
    if (strcmp(name, "DRIVER") == 0)
        return to_text(value, settings->driver, sizeof settings->driver);
    return false;
}

bool settings_read_environment(void)
{
    bool known = true;
    pthread_mutex_lock(&mutex);
    struct settings fresh = {.fault_core = EVERY_CORE, .hang = NO_CORE, .soc = "rk3588",
                             .version = "2.3.2 (double)", .driver = "0.9.8"};
    control_path[0] = log_path[0] = 0;
    for (char **entry = environ; *entry; entry++) {
        if (strncmp(*entry, PREFIX, strlen(PREFIX)) != 0)
            continue;
        char name[64];
        const char *start = *entry + strlen(PREFIX), *equals = strchr(start, '=');
        if (!equals || !to_text("", name, sizeof name) || (size_t)(equals - start) >= sizeof name)
            continue;
        memcpy(name, start, (size_t)(equals - start));
        name[equals - start] = 0;
        bool good = strcmp(name, "CONTROL") == 0 ? to_text(equals + 1, control_path, sizeof control_path)
                    : strcmp(name, "LOG") == 0   ? to_text(equals + 1, log_path, sizeof log_path)
                    : strcmp(name, "ORT") == 0 || set(&fresh, name, equals + 1);
        if (!good) {
            complain("%s is not a setting or has no such value", *entry);
            known = false;
        }
    }
    from_environment = current = fresh;
    is_read = true;
    control_known = false;
    runs = 0;
    pthread_mutex_unlock(&mutex);
    return known;
}

static void read_control(void)
{
    struct stat now = {0};
    bool there = stat(control_path, &now) == 0;
    if (control_known && now.st_mtim.tv_sec == control_seen.st_mtim.tv_sec && now.st_size == control_seen.st_size &&
        now.st_mtim.tv_nsec == control_seen.st_mtim.tv_nsec && now.st_ino == control_seen.st_ino)
        return;
    control_known = true;
    control_seen = now;
    current = from_environment;
    runs = 0;
    FILE *file = there ? fopen(control_path, "re") : NULL;
    if (!file)
        return;
    char line[1024];
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\r\n")] = 0;
        char *equals = strchr(line, '=');
        if (line[0] == 0 || line[0] == '#')
            continue;
        if (equals)
            *equals = 0;
        if (!equals || !set(&current, line, equals + 1))
            complain("the control file says %s, which is not a setting or has no such value", line);
    }
    fclose(file);
}

struct settings settings_now(void)
{
    pthread_mutex_lock(&mutex);
    bool read = is_read;
    pthread_mutex_unlock(&mutex);
    if (!read)
        settings_read_environment();
    pthread_mutex_lock(&mutex);
    if (control_path[0])
        read_control();
    struct settings settings = current;
    pthread_mutex_unlock(&mutex);
    return settings;
}

bool settings_fault_due(void)
{
    pthread_mutex_lock(&mutex);
    bool due = ++runs > current.good_runs;
    pthread_mutex_unlock(&mutex);
    return due;
}

void log_call(const char *call, uint64_t context, int rc, const char *format, ...)
{
    char path[sizeof log_path], line[1024], details[512] = "";
    pthread_mutex_lock(&mutex);
    memcpy(path, log_path, sizeof path);
    pthread_mutex_unlock(&mutex);
    if (!path[0])
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(details, sizeof details, format, arguments);
    va_end(arguments);
    int size = snprintf(line, sizeof line, "%s t_ms=%.3f tid=%ld ctx=%llu %s%src=%d\n", call, now_ms(),
                        (long)syscall(SYS_gettid), (unsigned long long)context, details, details[0] ? " " : "", rc);
    int file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (file < 0)
        return;
    if (write(file, line, (size_t)size) != size)
        complain("the log %s cannot be written", path);
    close(file);
}
