/* The calls that keep something between them: event sets, and samples of the profiling metrics. */
#include <stdlib.h>
#include <string.h>

#include "nvml.h"

enum { LOOK_NS = 50000000, MOST = 64, SYSTEM = 0 };

struct event_set {
    uint64_t seen;
    unsigned count;
    struct { word handle, types; } of[MOST]; /* handle SYSTEM: drivers that are bound and unbound */
};

static const struct event *events(const struct table *from) {
    return (const void *)((const char *)from + from->events_at);
}

static int create(const char *function, struct event_set **out) {
    int code = answer(function, "", NULL);
    const struct table *from = table();
    if (code != OK)
        return code;
    *out = calloc(1, sizeof **out);
    (*out)->seen = from->event_count > 0 ? events(from)[from->event_count - 1].number : 0;
    return OK;
}

static int add(struct event_set *set, word handle, word types) {
    if (set == NULL || set->count == MOST)
        return INVALID;
    set->of[set->count].handle = handle;
    set->of[set->count++].types = types;
    return OK;
}

static const struct event *next_event(struct event_set *set) {
    const struct table *from = table();
    for (uint64_t number = 0; number < from->event_count; number++) {
        const struct event *event = &events(from)[number];
        if (event->number <= set->seen)
            continue;
        set->seen = event->number;
        for (unsigned place = 0; place < set->count; place++)
            if (set->of[place].handle == event->told.handle && (set->of[place].types & event->told.type) != 0)
                return event;
    }
    return NULL;
}

/* The next event that the set wants, within so many milliseconds. One lost GPU ends the waiting for all. */
static int wait_for(const char *function, struct event_set *set, unsigned milliseconds, struct event *out) {
    for (uint64_t waited_ns = 0;; waited_ns += LOOK_NS) {
        int code = answer(function, "", NULL);
        for (unsigned place = 0; place < set->count && code == OK; place++) {
            const struct row *row = find(table(), with(key_of(function), set->of[place].handle));
            code = row != NULL ? row->code : OK;
        }
        if (code != OK)
            return code;
        const struct event *event = next_event(set);
        if (event != NULL) {
            *out = *event;
            return OK;
        }
        if (waited_ns >= milliseconds * UINT64_C(1000000))
            return TIMEOUT;
        take(LOOK_NS);
    }
}

int nvmlEventSetCreate(struct event_set **out) { return create(__func__, out); }

int nvmlDeviceRegisterEvents(word handle, word types, struct event_set *set) {
    int code = answer(__func__, "h q", (const word[]){handle, types});
    return code != OK ? code : add(set, handle, types);
}

int nvmlEventSetWait_v2(struct event_set *set, void *out, unsigned milliseconds) {
    struct event event;
    int code = wait_for(__func__, set, milliseconds, &event);
    if (code == OK)
        memcpy(out, &event.told, sizeof event.told);
    return code;
}

int nvmlEventSetFree(struct event_set *set) {
    free(set);
    return OK;
}

struct request { uint32_t version, unused; struct event_set *set; };
struct registration { uint32_t version, unused; word types; struct event_set *set; };
struct driver_event { word type; uint32_t gpu; };
struct waiting { uint32_t version, milliseconds; struct event_set *set; struct driver_event *out; uint32_t room, count; };

int nvmlSystemEventSetCreate(struct request *request) { return create(__func__, &request->set); }

int nvmlSystemRegisterEvents(struct registration *wish) { return add(wish->set, SYSTEM, wish->types); }

int nvmlSystemEventSetWait(struct waiting *waiting) {
    struct event event;
    int code = wait_for(__func__, waiting->set, waiting->milliseconds, &event);
    waiting->count = code == OK;
    if (code == OK)
        *waiting->out = (struct driver_event){event.told.type, (uint32_t)event.told.data};
    return code;
}

int nvmlSystemEventSetFree(struct request *request) { return nvmlEventSetFree(request->set); }

struct sample { word handle, gpu_instance; };

int nvmlGpmSampleAlloc(struct sample **out) {
    *out = calloc(1, sizeof **out);
    return *out != NULL ? OK : INVALID;
}

int nvmlGpmSampleFree(struct sample *sample) {
    free(sample);
    return OK;
}

int nvmlGpmSampleGet(word handle, struct sample *sample) {
    *sample = (struct sample){handle, UINT32_MAX};
    return answer(__func__, "h", (const word[]){handle});
}

int nvmlGpmMigSampleGet(word handle, unsigned gpu_instance, struct sample *sample) {
    *sample = (struct sample){handle, gpu_instance};
    return answer(__func__, "h i", (const word[]){handle, gpu_instance});
}

struct metrics {
    uint32_t version, count;
    const struct sample *first, *second;
    struct { uint32_t id, code; double value; const char *texts[3]; } of[];
};

int nvmlGpmMetricsGet(struct metrics *metrics) {
    if (metrics->version != 1)
        return BAD_VERSION;
    int code = answer(__func__, "", NULL);
    const struct table *from = table();
    if (code != OK || metrics->first->handle != metrics->second->handle)
        return code != OK ? code : INVALID;
    uint64_t key = with(with(key_of(__func__), metrics->second->handle), metrics->second->gpu_instance);
    for (uint32_t number = 0; number < metrics->count; number++) {
        const struct row *row = find(from, with(key, metrics->of[number].id));
        metrics->of[number].code = row == NULL ? NOT_SUPPORTED : (uint32_t)row->code;
        if (row != NULL && row->code == OK)
            memcpy(&metrics->of[number].value, (const char *)from + row->at, sizeof(double));
    }
    return OK;
}
