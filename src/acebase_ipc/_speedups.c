/* The functions of acebase_ipc/protocol/frames.py that process each message, in C.
 *
 * Each function here has a counterpart of the same name in Python: the general one, which
 * defines what is right. A function here processes the common case and leaves everything
 * else to its general one: arguments of other types, frames that are incomplete, invalid
 * or of another kind. So there is one reference, and no rule is written only here.
 *
 * Bounds: a call of split() takes at most MAX_TEXTS messages. No memory is allocated by a
 * length that a peer only announces: the bytes of a payload have arrived before it is
 * copied, and it is not longer than the limit.
 *
 * Only the stable ABI is used: one binary works with each CPython from 3.11 on.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include <stdint.h>
#include <string.h>

#define MAX_TEXTS 64 /* as in frames.py */

#define TEXT 0x81 /* the first byte of the frame of a text message */

#define NOT_ASCII UINT64_C(0x8080808080808080)

/* Writes the payload without its mask; returns whether it is all ASCII. */
static int
remove_mask(unsigned char *restrict to, const unsigned char *restrict from, size_t size,
            const unsigned char *key)
{
    uint32_t once;
    uint64_t key_twice, word, seen = 0;
    size_t at = 0;

    memcpy(&once, key, sizeof once);
    key_twice = (uint64_t)once << 32 | once; /* the same bytes whatever the byte order */
    for (; size - at >= sizeof word; at += sizeof word) {
        memcpy(&word, from + at, sizeof word);
        word ^= key_twice;
        memcpy(to + at, &word, sizeof word);
        seen |= word;
    }
    for (; at < size; at++) {
        to[at] = from[at] ^ key[at % 4];
        seen |= to[at];
    }
    return (seen & NOT_ASCII) == 0;
}

/* Returns whether a text is valid: the table "Well-Formed UTF-8 Byte Sequences" of the
 * Unicode Standard (section 3.9), which RFC 3629 and Python's strict decoder follow. */
static int
is_utf8(const unsigned char *text, size_t size)
{
    const unsigned char *end = text + size;

    while (text < end) {
        unsigned char first = *text++;
        unsigned char lowest = 0x80, highest = 0xBF; /* of the second byte */
        int following, index;

        if (first < 0x80) {
            uint64_t word;
            while ((size_t)(end - text) >= sizeof word) {
                memcpy(&word, text, sizeof word);
                if (word & NOT_ASCII) {
                    break;
                }
                text += sizeof word;
            }
            continue;
        }
        if (first < 0xC2 || first > 0xF4) {
            return 0; /* a continuation, an overlong form, or above U+10FFFF */
        }
        if (first < 0xE0) {
            following = 1;
        }
        else if (first < 0xF0) {
            following = 2;
            if (first == 0xE0) {
                lowest = 0xA0; /* below, it is an overlong form */
            }
            else if (first == 0xED) {
                highest = 0x9F; /* above, it is a surrogate */
            }
        }
        else {
            following = 3;
            if (first == 0xF0) {
                lowest = 0x90; /* below, it is an overlong form */
            }
            else if (first == 0xF4) {
                highest = 0x8F; /* above, it is above U+10FFFF */
            }
        }
        if (end - text < following || *text < lowest || *text > highest) {
            return 0;
        }
        for (index = 1; index < following; index++) {
            if ((text[index] & 0xC0) != 0x80) {
                return 0;
            }
        }
        text += following;
    }
    return 1;
}

/* Returns the size of the header if the data begins with a whole masked text frame, and
 * the size of its payload; 0 if it begins with something else. */
static size_t
read_header(const unsigned char *data, size_t available, size_t limit, size_t *length)
{
    size_t begin = 6;
    uint64_t told;

    if (available < begin || data[0] != TEXT || data[1] < 0x80) {
        return 0;
    }
    told = data[1] & 0x7F;
    if (told == 126) {
        begin = 8;
        told = (uint64_t)data[2] << 8 | data[3];
        if (told < 126) {
            return 0; /* not the shortest form */
        }
    }
    else if (told == 127) {
        int index;

        begin = 14;
        if (available < begin) {
            return 0;
        }
        told = 0;
        for (index = 2; index < 10; index++) {
            told = told << 8 | data[index];
        }
        if (told < 65536) {
            return 0;
        }
    }
    if (available < begin || told > limit || told > available - begin) {
        return 0;
    }
    *length = (size_t)told;
    return begin;
}

/* Appends a text to the list, whose key is before it; returns 1, 0 if it is not UTF-8, or -1 with
 * an exception. */
static int
take_text(PyObject *texts, const unsigned char *masked, size_t length)
{
    PyObject *text = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
    unsigned char *to;
    int result = 0;

    if (text == NULL) {
        return -1;
    }
    to = (unsigned char *)PyBytes_AsString(text);
    if (remove_mask(to, masked, length, masked - 4) || is_utf8(to, length)) {
        result = PyList_Append(texts, text) < 0 ? -1 : 1;
    }
    Py_DECREF(text);
    return result;
}

/* Returns what the general function makes of the data after the texts, behind these texts. */
static PyObject *
split_generally(PyObject *general, PyObject *texts, PyObject *rest, PyObject *const *arguments)
{
    PyObject *split = PyObject_CallFunctionObjArgs(general, rest, arguments[1], arguments[2], NULL);
    PyObject *more, *left, *partial, *result = NULL;
    Py_ssize_t end = PyList_Size(texts);

    if (split == NULL) {
        return NULL;
    }
    more = PyTuple_GetItem(split, 0);
    left = PyTuple_GetItem(split, 1);
    partial = PyTuple_GetItem(split, 2);
    if (more != NULL && left != NULL && partial != NULL &&
        PyList_SetSlice(texts, end, end, more) == 0) {
        result = PyTuple_Pack(3, texts, left, partial);
    }
    Py_DECREF(split);
    return result;
}

static PyObject *
split(PyObject *general, PyObject *const *arguments, Py_ssize_t count)
{
    const unsigned char *data;
    size_t end, start = 0, begin, length;
    Py_ssize_t limit;
    PyObject *texts, *rest, *result = NULL;
    int turn, taken = 1;

    if (count != 3) {
        PyErr_Format(PyExc_TypeError, "split() takes 3 arguments (%zd given)", count);
        return NULL;
    }
    limit = PyLong_AsSsize_t(arguments[1]);
    if (!PyBytes_CheckExact(arguments[0]) || limit < 0) {
        PyErr_Clear(); /* the limit may be no integer of this size */
        return PyObject_CallFunctionObjArgs(general, arguments[0], arguments[1], arguments[2],
                                            NULL);
    }
    data = (const unsigned char *)PyBytes_AsString(arguments[0]);
    end = (size_t)PyBytes_Size(arguments[0]);
    texts = PyList_New(0);
    if (texts == NULL) {
        return NULL;
    }
    for (turn = 0; turn < MAX_TEXTS; turn++) {
        begin = read_header(data + start, end - start, (size_t)limit, &length);
        taken = begin == 0 ? 0 : take_text(texts, data + start + begin, length);
        if (taken < 1) {
            break;
        }
        start += begin + length;
    }
    if (taken >= 0) {
        rest = PyBytes_FromStringAndSize((const char *)data + start, (Py_ssize_t)(end - start));
        if (rest != NULL) {
            if (taken == 1 || start == end) {
                result = PyTuple_Pack(3, texts, rest, Py_None);
            }
            else {
                result = split_generally(general, texts, rest, arguments);
            }
            Py_DECREF(rest);
        }
    }
    Py_DECREF(texts);
    return result;
}

static PyObject *
make_text_frame(PyObject *payload)
{
    size_t length = (size_t)PyBytes_Size(payload), begin = 2;
    unsigned char header[10] = {TEXT};
    unsigned char *to;
    PyObject *frame;

    if (length < 126) {
        header[1] = (unsigned char)length;
    }
    else {
        size_t left = length;

        header[1] = length < 65536 ? 126 : 127;
        begin = length < 65536 ? 4 : 10;
        for (size_t index = begin - 1; index > 1; index--) {
            header[index] = (unsigned char)(left & 0xFF);
            left >>= 8;
        }
    }
    frame = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(begin + length));
    if (frame != NULL) {
        to = (unsigned char *)PyBytes_AsString(frame);
        memcpy(to, header, begin);
        memcpy(to + begin, PyBytes_AsString(payload), length);
    }
    return frame;
}

static PyObject *
text_frame(PyObject *general, PyObject *payload)
{
    if (!PyBytes_CheckExact(payload)) {
        return PyObject_CallFunctionObjArgs(general, payload, NULL);
    }
    return make_text_frame(payload);
}

static PyObject *
text_frames(PyObject *general, PyObject *payloads)
{
    Py_ssize_t count, index;
    PyObject *frames;

    if (!PyList_CheckExact(payloads)) {
        return PyObject_CallFunctionObjArgs(general, payloads, NULL);
    }
    count = PyList_Size(payloads);
    frames = PyList_New(count);
    for (index = 0; frames != NULL && index < count; index++) {
        PyObject *payload = PyList_GetItem(payloads, index), *frame = NULL;

        if (payload != NULL && !PyBytes_CheckExact(payload)) {
            Py_DECREF(frames);
            return PyObject_CallFunctionObjArgs(general, payloads, NULL);
        }
        if (payload != NULL) {
            frame = make_text_frame(payload);
        }
        if (frame == NULL || PyList_SetItem(frames, index, frame) < 0) {
            Py_CLEAR(frames);
        }
    }
    return frames;
}

static PyObject *
unmask(PyObject *general, PyObject *const *arguments, Py_ssize_t count)
{
    PyObject *payload, *result;

    if (count != 2) {
        PyErr_Format(PyExc_TypeError, "unmask() takes 2 arguments (%zd given)", count);
        return NULL;
    }
    if (!PyBytes_CheckExact(arguments[0]) || !PyBytes_CheckExact(arguments[1]) ||
        PyBytes_Size(arguments[1]) != 4) {
        return PyObject_CallFunctionObjArgs(general, arguments[0], arguments[1], NULL);
    }
    payload = arguments[0];
    result = PyBytes_FromStringAndSize(NULL, PyBytes_Size(payload));
    if (result != NULL) {
        remove_mask((unsigned char *)PyBytes_AsString(result),
                    (const unsigned char *)PyBytes_AsString(payload),
                    (size_t)PyBytes_Size(payload),
                    (const unsigned char *)PyBytes_AsString(arguments[1]));
    }
    return result;
}

#define FAST(function) (PyCFunction)(void (*)(void)) function

static PyMethodDef functions[] = {
    {"split", FAST(split), METH_FASTCALL, NULL},
    {"text_frame", text_frame, METH_O, NULL},
    {"text_frames", text_frames, METH_O, NULL},
    {"unmask", FAST(unmask), METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyObject *
accelerate(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    const char *name;
    PyObject *general;

    if (!PyArg_ParseTuple(arguments, "sO", &name, &general)) {
        return NULL;
    }
    for (PyMethodDef *each = functions; each->ml_name != NULL; each++) {
        if (strcmp(each->ml_name, name) == 0) {
            return PyCFunction_NewEx(each, general, NULL);
        }
    }
    PyErr_Format(PyExc_LookupError, "there is no function %s", name);
    return NULL;
}

static PyMethodDef methods[] = {
    {"accelerate", accelerate, METH_VARARGS,
     "accelerate(name, general)\n--\n\n"
     "Return the function of this name, which leaves what is not common to *general*."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_speedups",
    .m_doc = "What acebase_ipc.protocol.frames does for each message, in C.",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__speedups(void)
{
    return PyModuleDef_Init(&module);
}
