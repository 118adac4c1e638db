/* A libnvidia-ml.so.1 for tests, written from the public interface: the calls that the GPU reader makes, answered
 * with the facts of one machine file (machine.h is generated from it by build.py).
 *
 * The text file named by ENGINEROOM_NVML_CONTROL makes it misbehave; it is read again when it changes. One per line:
 *   hang GPU                    every call about this GPU never returns ("-": nvmlInit never does)
 *   lost GPU                    every call about it returns 15
 *   load GPU                    it is in the recorded state under load instead of at rest
 *   return FUNCTION GPU CODE    "*" stands for every function or every GPU; GPU "-" is the driver as a whole
 *   crash GPU                   the process ends by SIGSEGV
 */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct state {
    int utilization, memory_utilization, temperature, memory_temperature, margin;
    unsigned power_milliwatts, clocks[4];
    unsigned long long throttle_mask;
};

struct gpu {
    const char *uuid, *name, *bus_id, *unsupported, *unsupported_fields;
    unsigned long long memory_total, memory_reserved, memory_baseline;
    unsigned power_limit_milliwatts;
    int slowdown, slowdown_margin; /* ABSENT where the GPU does not say */
    struct state idle, load;
};

#define ABSENT -1000
#include "machine.h"

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, LOST = 15, VERSION = 25 };
enum { DRIVER = -1 };

static int initialised;
static struct timespec loaded_at;
static char *rules;
static struct timespec rules_seen = {-1, -1};

static void read_rules(void) {
    const char *path = getenv("ENGINEROOM_NVML_CONTROL");
    struct stat status;
    if (path == NULL || stat(path, &status) != 0)
        return;
    if (rules != NULL && memcmp(&rules_seen, &status.st_mtim, sizeof rules_seen) == 0)
        return;
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return;
    rules_seen = status.st_mtim;
    free(rules);
    rules = calloc(1, (size_t)status.st_size + 2);
    size_t length = fread(rules, 1, (size_t)status.st_size, file);
    rules[length] = '\n';
    fclose(file);
}

static int is_for(const char *word, int index) {
    char own[16];
    snprintf(own, sizeof own, "%d", index);
    return strcmp(word, index == DRIVER ? "-" : own) == 0 || strcmp(word, "*") == 0;
}

/* What the control file wants of this call: a return code, or not to return at all. */
static int fault(const char *function, int index) {
    read_rules();
    for (const char *line = rules; line != NULL && *line != '\0'; line = strchr(line, '\n') + 1) {
        char verb[16] = "", first[64] = "", second[16] = "";
        int code = 0;
        int words = sscanf(line, "%15s %63s %15s %d", verb, first, second, &code);
        if (words >= 2 && strcmp(verb, "hang") == 0 && is_for(first, index) &&
            (index != DRIVER || strcmp(function, "nvmlInitWithFlags") == 0))
            for (;;)
                pause();
        if (words >= 2 && strcmp(verb, "crash") == 0 && is_for(first, index))
            raise(SIGSEGV);
        if (words >= 2 && strcmp(verb, "lost") == 0 && index != DRIVER && is_for(first, index))
            return LOST;
        if (words == 4 && strcmp(verb, "return") == 0 && is_for(second, index) &&
            (strcmp(first, "*") == 0 || strcmp(first, function) == 0))
            return code;
    }
    return OK;
}

static int has_word(const char *list, const char *word) {
    size_t length = strlen(word);
    for (const char *at = list; (at = strstr(at, word)) != NULL; at += length)
        if ((at == list || at[-1] == ' ') && (at[length] == ' ' || at[length] == '\0'))
            return 1;
    return 0;
}

static const struct state *state_of(int index) {
    read_rules();
    for (const char *line = rules; line != NULL && *line != '\0'; line = strchr(line, '\n') + 1) {
        char first[16] = "";
        if (sscanf(line, "load %15s", first) == 1 && is_for(first, index))
            return &GPUS[index].load;
    }
    return &GPUS[index].idle;
}

static int index_of(void *handle) { return (int)(intptr_t)handle - 1; }

static int check(const char *function, void *handle) {
    if (!initialised)
        return UNINITIALIZED;
    int index = index_of(handle);
    if (index < 0 || index >= GPU_COUNT)
        return INVALID;
    int code = fault(function, index);
    if (code != OK)
        return code;
    return has_word(GPUS[index].unsupported, function) ? NOT_SUPPORTED : OK;
}

static int driver(const char *function) { return initialised ? fault(function, DRIVER) : UNINITIALIZED; }

static int text(char *out, unsigned size, const char *value) {
    if (strlen(value) >= size)
        return TOO_SMALL;
    strcpy(out, value);
    return OK;
}

#define CHECK(expression) do { int code_ = (expression); if (code_ != OK) return code_; } while (0)
#define GPU GPUS[index_of(handle)]
#define STATE (state_of(index_of(handle)))

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    CHECK(fault(__func__, DRIVER));
    if (loaded_at.tv_sec == 0)
        clock_gettime(CLOCK_MONOTONIC, &loaded_at);
    initialised = 1;
    return OK;
}

int nvmlShutdown(void) {
    CHECK(driver(__func__));
    initialised = 0;
    return OK;
}

const char *nvmlErrorString(int code) {
    (void)code;
    return "error of the test library";
}

int nvmlSystemGetDriverVersion(char *out, unsigned size) {
    CHECK(driver(__func__));
    return text(out, size, DRIVER_VERSION);
}

int nvmlSystemGetNVMLVersion(char *out, unsigned size) {
    CHECK(driver(__func__));
    return text(out, size, NVML_VERSION);
}

int nvmlSystemGetCudaDriverVersion(int *out) {
    CHECK(driver(__func__));
    *out = CUDA_DRIVER_VERSION;
    return OK;
}

int nvmlDeviceGetCount_v2(unsigned *out) {
    CHECK(driver(__func__));
    *out = GPU_COUNT;
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out) {
    if (index >= GPU_COUNT)
        return INVALID;
    CHECK(check(__func__, (void *)(intptr_t)(index + 1)));
    *out = (void *)(intptr_t)(index + 1);
    return OK;
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, void **out) {
    for (int index = 0; index < GPU_COUNT; index++)
        if (strcmp(GPUS[index].bus_id, bus_id) == 0)
            return nvmlDeviceGetHandleByIndex_v2((unsigned)index, out);
    return NOT_FOUND;
}

int nvmlDeviceGetUUID(void *handle, char *out, unsigned size) {
    CHECK(check(__func__, handle));
    return text(out, size, GPU.uuid);
}

int nvmlDeviceGetName(void *handle, char *out, unsigned size) {
    CHECK(check(__func__, handle));
    return text(out, size, GPU.name);
}

struct pci {
    char legacy[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
};

int nvmlDeviceGetPciInfo_v3(void *handle, struct pci *out) {
    CHECK(check(__func__, handle));
    memset(out, 0, sizeof *out);
    return text(out->bus_id, sizeof out->bus_id, GPU.bus_id);
}

struct utilization { unsigned gpu, memory; };

int nvmlDeviceGetUtilizationRates(void *handle, struct utilization *out) {
    CHECK(check(__func__, handle));
    out->gpu = (unsigned)STATE->utilization;
    out->memory = (unsigned)STATE->memory_utilization;
    return OK;
}

struct memory { unsigned long long total, free, used; };

int nvmlDeviceGetMemoryInfo(void *handle, struct memory *out) {
    CHECK(check(__func__, handle));
    out->total = GPU.memory_total;
    out->used = GPU.memory_baseline + GPU.memory_reserved; /* the old struct counts the driver's part as used */
    out->free = out->total - out->used;
    return OK;
}

struct memory_v2 { unsigned version; unsigned long long total, reserved, free, used; };

int nvmlDeviceGetMemoryInfo_v2(void *handle, struct memory_v2 *out) {
    CHECK(check(__func__, handle));
    if (out->version != 0x02000028)
        return VERSION;
    out->total = GPU.memory_total;
    out->reserved = GPU.memory_reserved;
    out->used = GPU.memory_baseline;
    out->free = out->total - out->reserved - out->used;
    return OK;
}

int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned *out) {
    (void)sensor;
    CHECK(check(__func__, handle));
    *out = (unsigned)STATE->temperature;
    return OK;
}

struct temperature { unsigned version, sensor; int celsius; };

int nvmlDeviceGetTemperatureV(void *handle, struct temperature *out) {
    CHECK(check(__func__, handle));
    if (out->version != 0x0100000C)
        return VERSION;
    out->celsius = STATE->temperature;
    return OK;
}

int nvmlDeviceGetTemperatureThreshold(void *handle, int which, unsigned *out) {
    CHECK(check(__func__, handle));
    if (which != 1 || GPU.slowdown == ABSENT)
        return NOT_SUPPORTED;
    *out = (unsigned)GPU.slowdown;
    return OK;
}

struct margin { unsigned version; int celsius; };

int nvmlDeviceGetMarginTemperature(void *handle, struct margin *out) {
    CHECK(check(__func__, handle));
    if (STATE->margin == ABSENT)
        return NOT_SUPPORTED;
    out->celsius = STATE->margin;
    return OK;
}

int nvmlDeviceGetPowerUsage(void *handle, unsigned *out) {
    CHECK(check(__func__, handle));
    *out = STATE->power_milliwatts;
    return OK;
}

int nvmlDeviceGetEnforcedPowerLimit(void *handle, unsigned *out) {
    CHECK(check(__func__, handle));
    *out = GPU.power_limit_milliwatts;
    return OK;
}

int nvmlDeviceGetPowerManagementLimit(void *handle, unsigned *out) {
    CHECK(check(__func__, handle));
    *out = GPU.power_limit_milliwatts;
    return OK;
}

static unsigned long long energy_millijoules(void *handle) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    double seconds = (double)(now.tv_sec - loaded_at.tv_sec) + (double)(now.tv_nsec - loaded_at.tv_nsec) / 1e9;
    return (unsigned long long)(seconds * STATE->power_milliwatts);
}

int nvmlDeviceGetTotalEnergyConsumption(void *handle, unsigned long long *out) {
    CHECK(check(__func__, handle));
    *out = energy_millijoules(handle);
    return OK;
}

int nvmlDeviceGetClockInfo(void *handle, unsigned domain, unsigned *out) {
    CHECK(check(__func__, handle));
    if (domain > 3)
        return INVALID;
    *out = STATE->clocks[domain];
    return OK;
}

int nvmlDeviceGetCurrentClocksEventReasons(void *handle, unsigned long long *out) {
    CHECK(check(__func__, handle));
    *out = STATE->throttle_mask;
    return OK;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(void *handle, unsigned long long *out) {
    CHECK(check(__func__, handle));
    *out = STATE->throttle_mask;
    return OK;
}

struct field {
    unsigned id, scope;
    long long timestamp, latency_us;
    unsigned type, code;
    union { unsigned u; unsigned long long ull; int i; } value;
};

int nvmlDeviceGetFieldValues(void *handle, int count, struct field *fields) {
    CHECK(check(__func__, handle));
    for (int at = 0; at < count; at++) {
        struct field *field = &fields[at];
        char id[16];
        snprintf(id, sizeof id, "%u", field->id);
        field->code = has_word(GPU.unsupported_fields, id) ? NOT_SUPPORTED : OK;
        if (field->code != OK)
            continue;
        if (field->id == 83) {
            field->type = 3;
            field->value.ull = energy_millijoules(handle);
        } else if (field->id == 82 && STATE->memory_temperature != ABSENT) {
            field->type = 1;
            field->value.u = (unsigned)STATE->memory_temperature;
        } else if (field->id == 194 && GPU.slowdown_margin != ABSENT) {
            field->type = 5;
            field->value.i = GPU.slowdown_margin;
        } else {
            field->code = NOT_SUPPORTED;
        }
    }
    return OK;
}

struct process { unsigned pid; unsigned long long memory; unsigned gpu_instance, compute_instance; };

/* Under load one process is there: the one that asks. */
static int processes(const char *function, void *handle, unsigned *count, struct process *out, int listed) {
    CHECK(check(function, handle));
    unsigned room = *count;
    *count = listed && STATE == &GPU.load ? 1 : 0;
    if (room < *count)
        return TOO_SMALL;
    if (*count)
        out[0] = (struct process){(unsigned)getpid(), GPU.memory_total / 4, 0xFFFFFFFFu, 0xFFFFFFFFu};
    return OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, struct process *out) {
    return processes(__func__, handle, count, out, 1);
}

int nvmlDeviceGetComputeRunningProcesses_v2(void *handle, unsigned *count, struct process *out) {
    return processes(__func__, handle, count, out, 1);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned *count, struct process *out) {
    return processes(__func__, handle, count, out, 0);
}

int nvmlDeviceGetMPSComputeRunningProcesses_v3(void *handle, unsigned *count, struct process *out) {
    return processes(__func__, handle, count, out, 0);
}
