/* Text that grows as it is written. */
#include "text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool make_room(struct br_text *text, size_t more) {
    size_t wanted = text->length + more + 1;
    if (text->failed)
        return false;
    if (wanted <= text->room)
        return true;
    size_t room = wanted > 2 * text->room ? wanted : 2 * text->room;
    char *bytes = realloc(text->bytes, room);
    text->failed = !bytes;
    if (!bytes)
        return false;
    text->bytes = bytes;
    text->room = room;
    return true;
}

void br_text_add(struct br_text *text, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (length < 0 || !make_room(text, (size_t)length))
        return;
    va_start(arguments, format);
    vsnprintf(text->bytes + text->length, (size_t)length + 1, format, arguments);
    va_end(arguments);
    text->length += (size_t)length;
}

/* Bytes of the UTF-8 character at `s`, 0: it is none. Overlong forms, surrogates and what lies beyond
 * U+10FFFF are none. */
static int utf8_length(const unsigned char *s) {
    int length = s[0] < 0x80                   ? 1
                 : s[0] >= 0xc2 && s[0] < 0xe0 ? 2
                 : s[0] >= 0xe0 && s[0] < 0xf0 ? 3
                 : s[0] >= 0xf0 && s[0] < 0xf5 ? 4
                                               : 0;
    for (int i = 1; i < length; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] >= 0xa0) || (s[0] == 0xf0 && s[1] < 0x90) ||
        (s[0] == 0xf4 && s[1] >= 0x90))
        return 0;
    return length;
}

void br_text_string(struct br_text *text, const char *string) {
    br_text_add(text, "\"");
    for (const unsigned char *s = (const unsigned char *)string; *s;) {
        int length = utf8_length(s);
        if (length == 0)
            br_text_add(text, "\\udc%02x", *s);
        else if (*s == '"' || *s == '\\')
            br_text_add(text, "\\%c", *s);
        else if (*s < 0x20)
            br_text_add(text, "\\u%04x", *s);
        else
            br_text_add(text, "%.*s", length, (const char *)s);
        s += length ? length : 1;
    }
    br_text_add(text, "\"");
}

void br_text_uuid(struct br_text *text, const uint8_t uuid[16]) {
    static const uint8_t order[16] = {3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};
    br_text_add(text, "\"");
    for (int i = 0; i < 16; i++)
        br_text_add(text, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", uuid[order[i]]);
    br_text_add(text, "\"");
}

void br_text_free(struct br_text *text) {
    free(text->bytes);
    *text = (struct br_text){0};
}
