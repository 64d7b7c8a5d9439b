/* Text that grows as it is written, and JSON in it. */
#ifndef BR_TEXT_H
#define BR_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Begins as {0}. After an allocation failed, `failed` is set and nothing more is added. */
struct br_text {
    char *bytes; /* ends with a zero that `length` does not count; NULL while empty */
    size_t length, room;
    bool failed;
};

__attribute__((format(printf, 2, 3))) void br_text_add(struct br_text *text, const char *format, ...);

/* `string` as a JSON string in its quotes. Bytes that are no UTF-8 become lone surrogates (U+DC80 and up), as
 * Python's surrogateescape has them: every name of a file survives. */
void br_text_string(struct br_text *text, const char *string);

/* A UUID, in the byte order of a GUID, in quotes. */
void br_text_uuid(struct br_text *text, const uint8_t uuid[16]);

void br_text_free(struct br_text *text);

#endif
