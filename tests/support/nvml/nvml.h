/* The file of answers as it lies in memory (table.py writes it), and what both parts of the library use. */
#include <stdint.h>

typedef uint64_t word; /* an argument as it comes in a register: an integer or a pointer */
#define POINTER(type, argument) ((type *)(uintptr_t)(argument))

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, TOO_SMALL = 7, TIMEOUT = 10, MISMATCH = 18, BAD_VERSION = 25 };
enum { HANG = -1, CRASH = -2 }; /* codes of rows whose call does not return */

struct row {
    uint64_t key;
    int32_t code;
    uint32_t length;
    uint64_t latency_ns, at; /* at: where the outputs are in the file */
};

struct event {
    uint64_t number;
    struct { word handle, type, data; uint32_t instances[2]; } told; /* nvmlEventData_t; of a system event: no handle */
};

struct table {
    char magic[8];
    volatile uint32_t replaced; /* a newer file has taken this one's place */
    int32_t unknown_code;       /* of a call that has no row at all */
    uint64_t size, rows_at, row_count, events_at, event_count, upgraded;
};

extern int initialised;
const struct table *table(void);
uint64_t key_of(const char *name);
uint64_t with(uint64_t key, word value);
const struct row *find(const struct table *from, uint64_t key);
void take(uint64_t nanoseconds);
int answer(const char *name, const char *shape, const word *argument);
