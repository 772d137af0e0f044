/* SPDX-License-Identifier: Apache-2.0 */
/* One call into Python: arguments in, the answer or a code out. */

#include <stdlib.h>
#include <string.h>

#include "inside.h"

VixError call_begin(Call *call, CallName name)
{
   if (!started) {
      return VIX_E_DISK_NOINIT;
   }
   if (forked) {
      return VIX_E_FAIL;
   }
   call->name = name;
   call->count = 0;
   call->failed = 0;
   call->kept = enter();
   return VIX_OK;
}

static void add(Call *call, Object *argument)
{
   if (argument == NULL) {
      py.PyErr_Clear();
      call->failed = 1;
      argument = none();
   }
   call->arguments[call->count++] = argument;
}

void call_number(Call *call, uint64_t value)
{
   add(call, py.PyLong_FromUnsignedLongLong(value));
}

void call_handle(Call *call, const void *handle)
{
   add(call, py.PyLong_FromUnsignedLongLong((uintptr_t)handle));
}

void call_text(Call *call, const char *text)
{
   /* A file may have any name, and must get through as it is. */
   add(call, text == NULL
                ? none()
                : py.PyUnicode_DecodeUTF8(text, (ssize_t)strlen(text), "surrogateescape"));
}

void call_buffer(Call *call, const void *buffer, uint64_t sectors, int access)
{
   uint64_t size = sectors <= (PTRDIFF_MAX >> 9) ? sectors << 9 : 0;
   add(call, buffer == NULL ? none()
                            : py.PyMemoryView_FromMemory((char *)buffer, (ssize_t)size, access));
}

/* What the client gave to be told of progress. */
typedef struct {
   VixDiskLibProgressFunc function;
   void *data;
} Progress;

static Object *progress_made(Object *self, Object *percent)
{
   Progress *progress = py.PyCapsule_GetPointer(self, "progress");
   unsigned long long value = py.PyLong_AsUnsignedLongLong(percent);
   if (progress != NULL && progress->function != NULL && value <= 100) {
      void *state = py.PyEval_SaveThread();
      progress->function(progress->data, (int)value);
      py.PyEval_RestoreThread(state);
   }
   py.PyErr_Clear();
   return none();
}

static void progress_freed(Object *capsule)
{
   free(py.PyCapsule_GetPointer(capsule, "progress"));
}

void call_progress(Call *call, VixDiskLibProgressFunc function, void *data)
{
   static Method method = {"progress", (void *)progress_made, METHOD_ONE_ARGUMENT, NULL};
   if (function == NULL) {
      add(call, none());
      return;
   }
   Progress *progress = malloc(sizeof *progress);
   Object *capsule = NULL;
   if (progress != NULL) {
      progress->function = function;
      progress->data = data;
      capsule = py.PyCapsule_New(progress, "progress", progress_freed);
   }
   if (capsule == NULL) {
      free(progress);
      add(call, NULL);
      return;
   }
   add(call, py.PyCFunction_NewEx(&method, capsule, NULL));
   py.Py_DecRef(capsule);
}

/* Make the call; the result, or NULL after an error that was reported. */
static Object *perform(Call *call)
{
   Object *result = NULL;
   if (!call->failed) {
      result = py.PyObject_Vectorcall(functions[call->name], call->arguments,
                                      (size_t)call->count, NULL);
   }
   for (int i = 0; i < call->count; i++) {
      py.Py_DecRef(call->arguments[i]);
   }
   if (result == NULL && !call->failed) {
      py.PyErr_Clear();
   }
   return result;
}

static uint64_t code_of(Object *result)
{
   uint64_t code = py.PyLong_AsUnsignedLongLong(result);
   if (code == (uint64_t)-1) {
      py.PyErr_Clear();
      return VIX_E_FAIL;
   }
   return code;
}

/* After `leave`: the client hears of what should never happen. */
static VixError broken(const Call *call)
{
   if (call->failed) {
      return VIX_E_OUT_OF_MEMORY;
   }
   warn_client("diskkit: the call %s failed in Python without an answer\n", names[call->name]);
   return VIX_E_FAIL;
}

uint64_t call_end_number(Call *call)
{
   Object *result = perform(call);
   uint64_t code = VIX_E_FAIL;
   if (result != NULL) {
      code = code_of(result);
      py.Py_DecRef(result);
   }
   leave(call->kept);
   return result != NULL ? code : broken(call);
}

VixError call_end(Call *call)
{
   return call_end_number(call);
}

VixError call_end_bytes(Call *call, size_t room, char **answer, size_t *size)
{
   Object *result = perform(call);
   VixError code = VIX_E_FAIL;
   char *bytes;
   ssize_t length;
   if (result != NULL && py.PyBytes_AsStringAndSize(result, &bytes, &length) == 0) {
      char *copy = malloc(room + (size_t)length + 1);
      code = VIX_E_OUT_OF_MEMORY;
      if (copy != NULL) {
         memcpy(copy + room, bytes, (size_t)length);
         copy[room + (size_t)length] = 0;
         *answer = copy;
         *size = (size_t)length;
         code = VIX_OK;
      }
   } else if (result != NULL) {
      py.PyErr_Clear();
      code = code_of(result);
      if (code == VIX_OK) {
         code = VIX_E_FAIL; /* it should have been an answer */
      }
   }
   if (result != NULL) {
      py.Py_DecRef(result);
   }
   leave(call->kept);
   return result != NULL ? code : broken(call);
}

VixError call_end_into(Call *call, void *answer, size_t size)
{
   char *bytes;
   size_t length;
   VixError code = call_end_bytes(call, 0, &bytes, &length);
   if (code != VIX_OK) {
      return code;
   }
   if (length == size) {
      memcpy(answer, bytes, size);
   } else {
      code = VIX_E_FAIL;
   }
   free(bytes);
   return code;
}
