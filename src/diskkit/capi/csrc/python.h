/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calling Python without being linked to it. The functions below are found by name in a libpython
 * that is loaded when it is first needed, so one library serves every Python from 3.11 on.
 * diskkit/capi/calls.py is the other side; ARCHITECTURE.md and docs/design tell why it is so.
 */

#ifndef DISKKIT_PYTHON_H
#define DISKKIT_PYTHON_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "../include/vixDiskLib.h"

/* Raised whenever calls.py and this code must change together; both hold it. */
#define CALLS_VERSION 1

/* A Python object; only Python looks inside. */
typedef struct Object Object;

/* A function that Python can call: PyMethodDef. */
typedef struct {
   const char *name;
   void *function;
   int flags;
   const char *doc;
} Method;

#define METHOD_ONE_ARGUMENT 0x0008
#define METHOD_FAST 0x0080
#define BUFFER_READ 0x100
#define BUFFER_WRITE 0x200

#define PYTHON_FUNCTIONS(X)                                                                       \
   X(int, Py_IsInitialized, (void))                                                               \
   X(const char *, Py_GetVersion, (void))                                                         \
   X(void, Py_IncRef, (Object *))                                                                 \
   X(void, Py_DecRef, (Object *))                                                                 \
   X(int, PyGILState_Ensure, (void))                                                              \
   X(void, PyGILState_Release, (int))                                                             \
   X(void *, PyGILState_GetThisThreadState, (void))                                               \
   X(void *, PyEval_SaveThread, (void))                                                           \
   X(void, PyEval_RestoreThread, (void *))                                                        \
   X(void, PyThreadState_Clear, (void *))                                                         \
   X(void, PyThreadState_DeleteCurrent, (void))                                                   \
   X(Object *, PyImport_ImportModule, (const char *))                                             \
   X(Object *, PyObject_GetAttrString, (Object *, const char *))                                  \
   X(Object *, PyObject_Vectorcall, (Object *, Object *const *, size_t, Object *))                \
   X(Object *, PyObject_Str, (Object *))                                                          \
   X(Object *, PyMemoryView_FromMemory, (char *, ssize_t, int))                                   \
   X(Object *, PyLong_FromUnsignedLongLong, (unsigned long long))                                 \
   X(unsigned long long, PyLong_AsUnsignedLongLong, (Object *))                                   \
   X(Object *, PyUnicode_DecodeUTF8, (const char *, ssize_t, const char *))                       \
   X(const char *, PyUnicode_AsUTF8AndSize, (Object *, ssize_t *))                                \
   X(int, PyBytes_AsStringAndSize, (Object *, char **, ssize_t *))                                \
   X(Object *, PyCFunction_NewEx, (Method *, Object *, Object *))                                 \
   X(Object *, PyCapsule_New, (void *, const char *, void (*)(Object *)))                         \
   X(void *, PyCapsule_GetPointer, (Object *, const char *))                                      \
   X(void, PyErr_Clear, (void))                                                                   \
   X(void, PyErr_Fetch, (Object **, Object **, Object **))

typedef struct {
#define DECLARE(type, name, arguments) type(*name) arguments;
   PYTHON_FUNCTIONS(DECLARE)
#undef DECLARE
   Object *none;
} Python;

extern Python py;

/* What calls.py offers, by name. */
#define CALLS(X)                                                                                  \
   X(start) X(init) X(exit) X(list_transport_modes) X(error_text) X(connect) X(disconnect)        \
   X(prepare) X(end_access) X(cleanup) X(get_connect_params) X(create) X(create_child) X(open)    \
   X(close) X(get_info) X(get_transport_mode) X(unlink) X(rename) X(read) X(write)                \
   X(read_later) X(write_later) X(flush) X(wait) X(allocated_blocks) X(read_metadata)             \
   X(write_metadata) X(metadata_keys) X(grow) X(shrink) X(defragment) X(clone)                    \
   X(space_needed) X(check_repair) X(is_attach_possible) X(attach) X(mnt_init) X(mnt_exit)        \
   X(mnt_open) X(mnt_set_info) X(mnt_close) X(mnt_volumes) X(mnt_os_info) X(mnt_mount)            \
   X(mnt_dismount) X(mnt_volume_info)

typedef enum {
#define NAME(name) CALL_##name,
   CALLS(NAME)
#undef NAME
   CALL_COUNT
} CallName;

/* Find and start Python, once. Returns VIX_OK, or a code after saying why not. */
VixError python_start(void);

/* Whether calls can be made: Python runs, and this is not the child of a fork. */
int python_usable(void);

/* Why Python could not be started; "" if it was not tried or was. Valid until the next start. */
const char *python_why_not(void);

/*
 * The second library has no Python of its own: it calls through these, under names that nobody
 * else has.
 */
#define call_begin diskkit_call_begin
#define call_number diskkit_call_number
#define call_handle diskkit_call_handle
#define call_text diskkit_call_text
#define call_end diskkit_call_end
#define call_end_into diskkit_call_end_into
#define call_end_bytes diskkit_call_end_bytes
#define messages_also_to diskkit_messages_also_to
#define messages_wanted diskkit_messages_wanted

/* One call: begin, add arguments, end. Between begin and end the thread holds Python's lock. */
#define MOST_ARGUMENTS 24

typedef struct {
   CallName name;
   int count;
   int failed; /* an argument could not be made */
   int kept;   /* how to leave Python */
   Object *arguments[MOST_ARGUMENTS];
} Call;

/* VIX_OK, or a code and nothing to end. */
VixError call_begin(Call *call, CallName name);
void call_number(Call *call, uint64_t value);
void call_handle(Call *call, const void *handle);
/* NULL becomes None. */
void call_text(Call *call, const char *text);
/* NULL becomes None; a size that no buffer can have, an empty one. */
void call_buffer(Call *call, const void *buffer, uint64_t sectors, int access);

/* None if there is no function; else something to call with percents during the call. */
void call_progress(Call *call, VixDiskLibProgressFunc function, void *data);

/* The code that the call returned. */
VixError call_end(Call *call);
/* The number that it returned, which is a code in its low 32 bits. */
uint64_t call_end_number(Call *call);
/* VIX_OK and exactly `size` bytes of answer; or a code. */
VixError call_end_into(Call *call, void *answer, size_t size);
/* VIX_OK and `room` bytes for the caller, the answer, and a NUL, to be freed; or a code. */
VixError call_end_bytes(Call *call, size_t room, char **answer, size_t *size);

/* The client's functions for messages; any may be NULL. */
void messages_to(VixDiskLibGenericLogFunc *log, VixDiskLibGenericLogFunc *warn,
                 VixDiskLibGenericLogFunc *panic);
/* The same for what has none. */
void messages_also_to(VixDiskLibGenericLogFunc *log, VixDiskLibGenericLogFunc *warn);
/* Give one line to the client's function for warnings, or to standard error. */
void warn_client(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* For the start of calls.py: takes a level (0 log, 1 warn, 2 standard error) and bytes. NULL after
   an error. */
Object *make_say(void);
/* The same: where a stretch of a disk lies, and to forget those of a disk (stretch.c). */
Object *make_keep(void);
Object *make_forget(void);
/* Whether it was done without Python. Both need `python_usable`. */
int stretch_read(uint64_t handle, uint64_t sector, uint64_t count, void *buffer);
int stretch_write(uint64_t handle, uint64_t sector, uint64_t count, const void *buffer);

/* Which functions the client gave: bit 0 log, bit 1 warn. */
unsigned messages_wanted(void);

/* Where Python is. */
typedef struct {
   char libpython[4096];  /* a path, or a name for the loader */
   char executable[4096]; /* of the environment, so that Python finds its packages */
   char packages[4096];   /* the folder that holds the package diskkit; "" if not known */
} Found;

/* Returns 0, or -1 with a line in `why`. */
int find_python(Found *found, char *why, size_t size);
/* Only `packages`, for a process that has a Python already. */
void find_packages(Found *found);

#endif
