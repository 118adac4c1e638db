/* A libnvidia-ml.so.1 for tests, written from the public interface. It knows no GPU: every answer is looked up in the
 * file named by ENGINEROOM_NVML_TABLE, which writer.py renders by asking the Python simulator (agent/demo/gpus).
 *
 * One generic function serves all calls. `shape` says what a call's arguments are (agent/collect/gpu/shapes.py has the words), and
 * functions.h, made by build.py, lists the calls as FUNCTION(name, "shape"). A row of the table is found by a hash of
 * the function's name and those arguments that select an answer; it holds the return code, how long the call takes and
 * the bytes of all outputs, in the order of the arguments.
 */
#define _GNU_SOURCE
#include "nvml.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { KEPT = 32 };
static struct table *tables[KEPT]; /* the latest, and some older ones that another thread may still be reading */
static unsigned generation;
static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER;
static int stale; /* initialised before the driver was upgraded under this process */
int initialised; /* as often as nvmlInit was called without nvmlShutdown */

static struct table *open_table(void) {
    const char *path = getenv("ENGINEROOM_NVML_TABLE");
    int file = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (file < 0 || fstat(file, &status) != 0)
        return NULL;
    struct table *found = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    return found == MAP_FAILED || memcmp(found->magic, "NVMLTAB1", 8) != 0 ? NULL : found;
}

const struct table *table(void) {
    const struct table *now = __atomic_load_n(&tables[generation % KEPT], __ATOMIC_ACQUIRE);
    if (now != NULL && !now->replaced)
        return now;
    pthread_mutex_lock(&opening);
    now = tables[generation % KEPT];
    struct table *fresh = now == NULL || now->replaced ? open_table() : NULL;
    if (fresh != NULL) {
        struct table **place = &tables[(generation + 1) % KEPT];
        if (*place != NULL)
            munmap(*place, (*place)->size);
        __atomic_store_n(place, fresh, __ATOMIC_RELEASE);
        generation++;
        now = fresh;
    }
    pthread_mutex_unlock(&opening);
    return now;
}

static uint64_t hashed(uint64_t hash, const void *bytes, size_t count) { /* FNV-1a */
    for (const unsigned char *at = bytes; count-- > 0; at++)
        hash = (hash ^ *at) * 0x100000001B3u;
    return hash;
}

uint64_t key_of(const char *name) { return hashed(0xCBF29CE484222325u, name, strlen(name) + 1); }

uint64_t with(uint64_t key, word value) { return hashed(key, &value, sizeof value); }

const struct row *find(const struct table *from, uint64_t key) {
    const struct row *rows = (const void *)((const char *)from + from->rows_at);
    uint64_t low = 0, high = from->row_count;
    while (low < high) {
        uint64_t middle = (low + high) / 2;
        if (rows[middle].key < key)
            low = middle + 1;
        else
            high = middle;
    }
    return low < from->row_count && rows[low].key == key ? &rows[low] : NULL;
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void sleep_ns(uint64_t nanoseconds) {
    struct timespec pause = {(time_t)(nanoseconds / 1000000000), (long)(nanoseconds % 1000000000)};
    nanosleep(&pause, NULL);
}

/* A driver that is asked something blocks; it does not spin. The kernel wakes us later than we ask, by some 50 us: that
 * is measured once and left out, and a call shorter than it takes no time at all. */
void take(uint64_t nanoseconds) {
    static _Thread_local uint64_t late;
    if (nanoseconds == 0)
        return;
    if (late == 0) {
        prctl(PR_SET_TIMERSLACK, 1);
        uint64_t sorted[9] = {0}; /* for their median */
        for (int round = 0; round < 9; round++) {
            uint64_t began = now_ns(), took;
            sleep_ns(20000);
            took = now_ns() - began - 20000;
            int place = round;
            for (; place > 0 && sorted[place - 1] > took; place--)
                sorted[place] = sorted[place - 1];
            sorted[place] = took;
        }
        late = sorted[4] + 1;
    }
    if (nanoseconds > late)
        sleep_ns(nanoseconds - late);
}

/* The row of a call: the very one, else what is said of this function and handle, of this handle, of this function. */
static const struct row *row_of(const struct table *from, const char *name, uint64_t key, word handle) {
    const uint64_t keys[] = {key, with(key_of(name), handle), with(key_of(""), handle), key_of(name)};
    const struct row *found = NULL;
    for (unsigned number = 0; number < 4 && found == NULL; number++)
        found = handle == 0 && (number == 1 || number == 2) ? NULL : find(from, keys[number]);
    return found;
}

static int outcome(const struct row *row, const struct table *from) {
    int code = row != NULL ? row->code : from->unknown_code;
    if (code == CRASH)
        raise(SIGSEGV);
    while (code == HANG)
        pause();
    return code;
}

static int field_values(const struct table *from, word handle, int count, unsigned char *items) {
    enum { ITEM = 40, ANSWER_AT = 8, CODE_AT = 28 };
    uint64_t base = with(key_of("nvmlDeviceGetFieldValues"), handle), nanoseconds = 0;
    for (int number = 0; number < count; number++) {
        unsigned char *item = items + number * ITEM;
        const uint32_t *asked = (const void *)item, not_supported = NOT_SUPPORTED;
        const struct row *row = find(from, with(with(base, asked[0]), asked[1]));
        if (row != NULL)
            memcpy(item + ANSWER_AT, (const char *)from + row->at, ITEM - ANSWER_AT);
        else
            memcpy(item + CODE_AT, &not_supported, sizeof not_supported);
        nanoseconds += row != NULL ? row->latency_ns : 0;
    }
    take(nanoseconds);
    return OK;
}

/* One word of a shape: a letter and up to three numbers, with dots between. Returns where the next word begins. */
struct part {
    char kind;
    uint32_t size, second, third;
};

static const char *next(const char *shape, struct part *out) {
    *out = (struct part){.kind = *shape};
    uint32_t *number = &out->size;
    for (shape++; *shape != ' ' && *shape != '\0'; shape++)
        if (*shape == '.')
            number++;
        else
            *number = *number * 10 + (uint32_t)(*shape - '0');
    return shape + (*shape == ' ');
}

static unsigned arguments_of(char kind) { return strchr("scCfa", kind) != NULL ? 2 : 1; }

/* What selects the answer. Sets `handle` to the first one, and refuses pointers that must not be NULL. */
static int select_row(const char *shape, const word *argument, uint64_t *key, word *handle) {
    struct part part;
    for (; *shape != '\0'; argument += arguments_of(part.kind)) {
        shape = next(shape, &part);
        if (strchr("hkovp", part.kind) != NULL && *argument == 0)
            return INVALID;
        if (part.kind == 'h' && *handle == 0)
            *handle = *argument;
        if (part.kind == 'h')
            *key = with(*key, *argument);
        if (part.kind == 'i')
            *key = with(*key, (uint32_t)*argument);
        if (part.kind == 'k')
            *key = hashed(*key, POINTER(char, *argument), strlen(POINTER(char, *argument)));
        if (part.kind == 'v' || part.kind == 'p')
            *key = hashed(*key, POINTER(char, *argument), part.second);
    }
    return OK;
}

/* A list that is asked for twice: first how long it is, then with room for it. */
static int list(const char **from, uint32_t size, uint32_t *count, void *items, int asking_is_fine) {
    uint32_t here, room = *count;
    memcpy(&here, *from, sizeof here);
    *from += sizeof here;
    *count = here;
    if (items == NULL && asking_is_fine)
        return OK;
    if (room < here || (items == NULL && here > 0))
        return TOO_SMALL;
    if (here > 0)
        memcpy(items, *from, (size_t)here * size);
    *from += (size_t)here * size;
    return OK;
}

static int copy_outputs(const char *shape, const word *argument, const char *from) {
    struct part part;
    int code = OK;
    for (; *shape != '\0' && code == OK; argument += arguments_of(part.kind)) {
        shape = next(shape, &part);
        char *out = POINTER(char, *argument);
        if (part.kind == 'o' || part.kind == 'v') {
            memcpy(out, from, part.size);
            from += part.size;
        } else if (part.kind == 'a') { /* as many longs as there is room for */
            uint32_t room = (uint32_t)argument[0] < part.size ? (uint32_t)argument[0] : part.size;
            memcpy(POINTER(char, argument[1]), from, room * sizeof(long));
            from += part.size * sizeof(long);
        } else if (part.kind == 's') {
            if (strlen(from) + 1 > (uint32_t)argument[1])
                return TOO_SMALL;
            strcpy(out, from);
            from += strlen(from) + 1;
        } else if (part.kind == 'c') {
            code = list(&from, part.size, POINTER(uint32_t, argument[0]), POINTER(void, argument[1]), part.second == 1);
        } else if (part.kind == 'C') {
            code = list(&from, part.size, POINTER(uint32_t, argument[1]), out, 0);
        } else if (part.kind == 'p') { /* the list's length and address are members of a struct */
            uint32_t *count = (uint32_t *)(void *)(out + part.third);
            void *items;
            memcpy(&items, out + 16, sizeof items);
            code = list(&from, part.size, count, items, 0);
        }
    }
    return code;
}

static int outdated(const struct table *from) {
    if (!from->upgraded)
        stale = initialised > 0;
    return from->upgraded && stale;
}

int answer(const char *name, const char *shape, const word *argument) {
    uint64_t key = key_of(name);
    word handle = 0;
    if (initialised == 0)
        return UNINITIALIZED;
    int code = select_row(shape, argument, &key, &handle);
    const struct table *from = table();
    if (code != OK || from == NULL)
        return code != OK ? code : UNINITIALIZED;
    if (outdated(from))
        return MISMATCH;
    const struct row *row = row_of(from, name, key, handle);
    take(row != NULL ? row->latency_ns : 0);
    from = table(); /* what was asked while the call lasted may have changed */
    row = row_of(from, name, key, handle);
    code = outcome(row, from);
    if (code != OK || row == NULL)
        return code;
    if (strchr(shape, 'f') != NULL)
        return field_values(from, handle, (int)argument[1], POINTER(unsigned char, argument[2]));
    return row->length == 0 ? OK : copy_outputs(shape, argument, (const char *)from + row->at);
}

#define FUNCTION(name, shape)                                                      \
    int name(word a, word b, word c, word d, word e, word f) {                     \
        return answer(#name, shape, (const word[]){a, b, c, d, e, f});             \
    }
#include "functions.h"

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    const struct table *from = table();
    if (from == NULL)
        return UNINITIALIZED;
    if (outdated(from))
        return MISMATCH;
    const struct row *row = find(from, key_of(__func__));
    take(row != NULL ? row->latency_ns : 0);
    int code = outcome(row, from);
    initialised += code == OK;
    stale = initialised > 0 && !from->upgraded;
    return code;
}

int nvmlShutdown(void) {
    if (initialised == 0)
        return UNINITIALIZED;
    initialised--;
    return OK;
}

const char *nvmlErrorString(int code) {
    static _Thread_local char text[48];
    snprintf(text, sizeof text, "error %d of the simulated driver", code);
    return text;
}
