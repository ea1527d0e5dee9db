#define _GNU_SOURCE
#include "envelope.h"

#include <ctype.h>
#include <string.h>

const struct patterns ENVELOPES[KINDS] = {
    [LOCK] = {"{\"type\":\"lock-request\",\"id\":\"%i\",\"from\":\"%w\",\"to\":\"[master]\","
              "\"data\":{\"path\":\"%p\",\"tid\":\"%t\",\"write\":%b,\"comment\":\"%c\"}}",
              "{\"type\":\"lock-result\",\"id\":\"%i\",\"from\":\"[master]\",\"to\":\"%w\","
              "\"ok\":true,\"data\":{\"id\":%l,\"path\":\"%p\",\"tid\":\"%t\",\"write\":%b,"
              "\"expires\":%e,\"comment\":\"%c\"}}"},
    [UNLOCK] = {"{\"type\":\"unlock-request\",\"id\":\"%i\",\"from\":\"%w\",\"to\":\"[master]\","
                "\"data\":{\"id\":%l}}",
                "{\"type\":\"unlock-result\",\"id\":\"%i\",\"from\":\"[master]\",\"to\":\"%w\","
                "\"ok\":true,\"data\":{\"id\":%l}}"},
    [REQUEST] = {"{\"type\":\"request\",\"from\":\"%w\",\"to\":\"[master]\",\"id\":\"%i\","
                 "\"data\":{\"type\":\"fst.allocate\",\"records\":1}}",
                 "{\"type\":\"result\",\"id\":\"%i\",\"ok\":true,\"from\":\"[master]\","
                 "\"to\":\"%w\",\"data\":{\"ok\":true,\"allocation\":"
                 "[{\"pageNr\":0,\"recordNr\":2,\"length\":1}]}}"},
    [EVENT] = {"{\"type\":\"event\",\"from\":\"%w\",\"to\":\"[master]\",\"path\":\"list\","
               "\"event\":\"child_added\",\"data\":{\"path\":\"list/%i\",\"val\":\"%x\","
               "\"previous\":null,\"context\":{}}}",
               "{\"type\":\"event\",\"from\":\"[master]\",\"to\":\"%w\",\"path\":\"list\","
               "\"event\":\"child_added\",\"data\":{\"path\":\"list/%i\",\"val\":\"%x\","
               "\"previous\":null,\"context\":{}}}"},
};

struct span span_of(const char *text)
{
    return (struct span){text, strlen(text)};
}

bool span_equal(struct span one, struct span two)
{
    return one.length == two.length && memcmp(one.at, two.at, one.length) == 0;
}

static enum field field_of(char letter)
{
    return (enum field)(strchr(FIELD_LETTERS, letter) - FIELD_LETTERS);
}

size_t envelope_write(const char *pattern, const struct envelope *envelope, char *text)
{
    char *to = text;

    for (;;) {
        size_t literal = strcspn(pattern, "%");
        const struct span *field;

        to = mempcpy(to, pattern, literal);
        pattern += literal;
        if (*pattern == '\0')
            return (size_t)(to - text);
        field = &envelope->field[field_of(pattern[1])];
        to = mempcpy(to, field->at, field->length);
        pattern += 2;
    }
}

/* Length of the string that a quote ends which is not escaped, or of the number, true or false. */
static size_t field_length(const char *text, const char *end, bool quoted)
{
    const char *at = text;

    if (!quoted)
        while (at < end && isalnum((unsigned char)*at))
            at++;
    else
        while (at < end && *at != '"')
            at += *at == '\\' ? 2 : 1;
    return (size_t)((at < end ? at : end) - text);
}

bool envelope_read(const char *pattern, struct envelope *envelope, const char *text,
                   size_t length)
{
    const char *end = text + length;

    for (;;) {
        size_t literal = strcspn(pattern, "%");
        struct span *field;

        if ((size_t)(end - text) < literal || memcmp(text, pattern, literal) != 0)
            return false;
        text += literal;
        pattern += literal;
        if (*pattern == '\0')
            return text == end;
        field = &envelope->field[field_of(pattern[1])];
        field->at = text;
        field->length = field_length(text, end, pattern[2] == '"');
        text += field->length;
        pattern += 2;
    }
}
