/* SPDX-License-Identifier: Apache-2.0 */
/* Lines for the program: through the functions it gave, or to standard error. */

#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

#include "inside.h"

static VixDiskLibGenericLogFunc *volatile client_log;
static VixDiskLibGenericLogFunc *volatile client_warn;

void messages_to(VixDiskLibGenericLogFunc *log, VixDiskLibGenericLogFunc *warn,
                 VixDiskLibGenericLogFunc *panic)
{
   (void)panic; /* nothing here ends a program */
   client_log = log;
   client_warn = warn;
}

void messages_also_to(VixDiskLibGenericLogFunc *log, VixDiskLibGenericLogFunc *warn)
{
   if (client_log == NULL) {
      client_log = log;
   }
   if (client_warn == NULL) {
      client_warn = warn;
   }
}

unsigned messages_wanted(void)
{
   return (client_log != NULL ? 1u : 0u) | (client_warn != NULL ? 2u : 0u);
}

static void emit(VixDiskLibGenericLogFunc *function, const char *format, ...)
{
   va_list arguments;
   va_start(arguments, format);
   function(format, arguments);
   va_end(arguments);
}

/* A program whose standard error nobody reads any more must not die of what is said here. */
static void write_error(const char *line)
{
   sigset_t pipe, before, pending;
   struct timespec at_once = {0, 0};
   sigemptyset(&pipe);
   sigaddset(&pipe, SIGPIPE);
   sigpending(&pending);
   pthread_sigmask(SIG_BLOCK, &pipe, &before);
   fputs(line, stderr);
   if (!sigismember(&pending, SIGPIPE)) {
      sigtimedwait(&pipe, NULL, &at_once);
   }
   pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void warn_client(const char *format, ...)
{
   char line[1200];
   va_list arguments;
   VixDiskLibGenericLogFunc *warn = client_warn;
   va_start(arguments, format);
   vsnprintf(line, sizeof line, format, arguments);
   va_end(arguments);
   if (warn != NULL) {
      emit(warn, "%s", line);
   } else {
      write_error(line);
   }
}

/* say(level, line): called by calls.py; 0 log, 1 warn, 2 standard error */
static Object *say(Object *self, Object *const *arguments, ssize_t count)
{
   char *line;
   (void)self;
   if (count == 2 && py.PyBytes_AsStringAndSize(arguments[1], &line, NULL) == 0) {
      unsigned long long level = py.PyLong_AsUnsignedLongLong(arguments[0]);
      VixDiskLibGenericLogFunc *function = level == 0 ? client_log : client_warn;
      void *state = py.PyEval_SaveThread();
      if (level == 2) {
         write_error(line);
      } else if (function != NULL) {
         emit(function, "%s", line);
      }
      py.PyEval_RestoreThread(state);
   }
   py.PyErr_Clear();
   return none();
}

Object *make_say(void)
{
   static Method method = {"say", (void *)say, METHOD_FAST, NULL};
   return py.PyCFunction_NewEx(&method, NULL, NULL);
}
