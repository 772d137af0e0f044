/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Python's life in this process, and one call into it.
 *
 * Nothing is started before it is needed, because programs fork between loading a library and
 * using it. Python is never ended. A thread that Python does not know gets a thread state at its
 * first call and keeps it until it ends: making one takes far longer than a read.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <locale.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

#include "python.h"

Python py;

static Object *functions[CALL_COUNT];
static const char *const names[CALL_COUNT] = {
#define NAME(name) #name,
   CALLS(NAME)
#undef NAME
};

static pthread_mutex_t starting = PTHREAD_MUTEX_INITIALIZER;
static volatile int started; /* functions[] can be called */
static volatile int forked;  /* this is a child, and Python's threads are in the parent */
static char why_not[1024];

/* ---- Threads and forks ------------------------------------------------------------------- */

/* How to leave Python: either this, or what PyGILState_Ensure said. */
#define STICKY (-1)

static __thread void *own_state; /* the state that this library made for this thread */
static pthread_key_t ending;
static int has_ending;

/* A thread that has a state of ours ends. */
static void thread_ends(void *state)
{
   if (forked || !py.Py_IsInitialized()) {
      return;
   }
   own_state = NULL;
   py.PyEval_RestoreThread(state);
   py.PyThreadState_Clear(state);
   py.PyThreadState_DeleteCurrent();
}

static void child_begins(void)
{
   if (started) {
      forked = 1;
   }
   pthread_mutex_init(&starting, NULL);
}

/* Python makes its keys later than this, and keys are cleared in the order of their making. */
__attribute__((constructor)) static void library_is_loaded(void)
{
   has_ending = pthread_key_create(&ending, thread_ends) == 0;
   pthread_atfork(NULL, NULL, child_begins);
}

/* Returns how to leave again. */
static int enter(void)
{
   if (own_state != NULL) {
      py.PyEval_RestoreThread(own_state);
      return STICKY;
   }
   int known = py.PyGILState_GetThisThreadState() != NULL;
   int said = py.PyGILState_Ensure();
   if (known || !has_ending) {
      return said;
   }
   own_state = py.PyGILState_GetThisThreadState();
   pthread_setspecific(ending, own_state);
   return STICKY;
}

static void leave(int kept)
{
   if (kept == STICKY) {
      py.PyEval_SaveThread();
   } else {
      py.PyGILState_Release(kept);
   }
}

/* ---- Messages ---------------------------------------------------------------------------- */

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

static Object *none(void)
{
   py.Py_IncRef(py.none);
   return py.none;
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

/* ---- Start ------------------------------------------------------------------------------- */

const char *python_why_not(void)
{
   return why_not;
}

int python_usable(void)
{
   return started && !forked;
}

static int is_new_enough(void *library)
{
   const char *(*version)(void) = (const char *(*)(void))dlsym(library, "Py_GetVersion");
   int major = 0, minor = 0;
   if (version == NULL) {
      snprintf(why_not, sizeof why_not, "what was loaded is no Python: it has no Py_GetVersion");
      return 0;
   }
   if (sscanf(version(), "%d.%d", &major, &minor) != 2 || major != 3 || minor < 11) {
      snprintf(why_not, sizeof why_not, "Python 3.11 or newer is needed, this is %.20s", version());
      return 0;
   }
   return 1;
}

static int load(void *library)
{
   /* First, because what else is missing from an old one would tell less. */
   if (!is_new_enough(library)) {
      return -1;
   }
#define FIND(type, name, arguments)                                                               \
   *(void **)&py.name = dlsym(library, #name);                                                    \
   if (py.name == NULL) {                                                                         \
      snprintf(why_not, sizeof why_not, "this Python has no function " #name);                    \
      return -1;                                                                                  \
   }
   PYTHON_FUNCTIONS(FIND)
#undef FIND
   py.none = dlsym(library, "_Py_NoneStruct");
   if (py.none == NULL) {
      snprintf(why_not, sizeof why_not, "this Python has no None");
      return -1;
   }
   return 0;
}

/* UTF-8 to the wide text that old Pythons want, for good. NULL if it is not UTF-8. */
static wchar_t *widen(const char *text)
{
   size_t length = strlen(text);
   wchar_t *wide = calloc(length + 1, sizeof *wide), *to = wide;
   const unsigned char *at = (const unsigned char *)text;
   while (wide != NULL && *at != 0) {
      int more = *at < 0x80 ? 0 : *at >= 0xf0 ? 3 : *at >= 0xe0 ? 2 : 1;
      wchar_t code = more == 0 ? *at : *at & (0x3f >> more);
      at++;
      for (; more > 0; more--, at++) {
         if ((*at & 0xc0) != 0x80) {
            free(wide);
            return NULL;
         }
         code = (code << 6) | (*at & 0x3f);
      }
      *to++ = code;
   }
   return wide;
}

/* From Python 3.14 on. Returns 1 if there is no such way. */
static int initialize_by_config(void *library, const char *executable)
{
   void *(*create)(void) = dlsym(library, "PyInitConfig_Create");
   int (*set_text)(void *, const char *, const char *) = dlsym(library, "PyInitConfig_SetStr");
   int (*set_number)(void *, const char *, int64_t) = dlsym(library, "PyInitConfig_SetInt");
   int (*initialize)(void *) = dlsym(library, "Py_InitializeFromInitConfig");
   int (*error)(void *, const char **) = dlsym(library, "PyInitConfig_GetError");
   void (*discard)(void *) = dlsym(library, "PyInitConfig_Free");
   if (!create || !set_text || !set_number || !initialize || !error || !discard) {
      return 1;
   }
   /* It is isolated: no environment, no signal handlers, no change of the locale. */
   void *config = create();
   const char *message = "no memory";
   int failed = config == NULL || set_text(config, "executable", executable) < 0 ||
                set_number(config, "utf8_mode", 1) < 0 ||
                set_number(config, "install_signal_handlers", 0) < 0 ||
                initialize(config) < 0;
   if (failed) {
      if (config != NULL) {
         error(config, &message);
      }
      snprintf(why_not, sizeof why_not, "Python did not start: %s", message);
   }
   if (config != NULL) {
      discard(config);
   }
   return failed ? -1 : 0;
}

static int initialize(void *library, const char *executable)
{
   int done = initialize_by_config(library, executable);
   if (done <= 0) {
      return done;
   }
   static const char *const flags[] = {"Py_IgnoreEnvironmentFlag", "Py_NoUserSiteDirectory",
                                       "Py_IsolatedFlag", "Py_UTF8Mode"};
   void (*set_name)(const wchar_t *) = dlsym(library, "Py_SetProgramName");
   void (*start)(int) = dlsym(library, "Py_InitializeEx");
   static wchar_t *name; /* as Python asks for: it may not go away */
   free(name);
   name = widen(executable);
   if (set_name == NULL || start == NULL || name == NULL) {
      snprintf(why_not, sizeof why_not, "this Python cannot be started as %.900s", executable);
      return -1;
   }
   for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
      int *flag = dlsym(library, flags[i]);
      if (flag != NULL) {
         *flag = 1;
      }
   }
   /* It would set the locale of the whole process. */
   const char *now = setlocale(LC_CTYPE, NULL);
   char *locale = now != NULL ? strdup(now) : NULL;
   set_name(name);
   start(0);
   if (locale != NULL) {
      setlocale(LC_CTYPE, locale);
      free(locale);
   }
   return 0;
}

/* Python's own words for the error that is set. */
static void explain(const char *what)
{
   Object *type = NULL, *value = NULL, *trace = NULL;
   py.PyErr_Fetch(&type, &value, &trace);
   Object *text = value != NULL ? py.PyObject_Str(value) : NULL;
   const char *words = text != NULL ? py.PyUnicode_AsUTF8AndSize(text, NULL) : NULL;
   snprintf(why_not, sizeof why_not, "%s: %s", what, words != NULL ? words : "no reason given");
   Object *all[] = {type, value, trace, text};
   for (size_t i = 0; i < 4; i++) {
      if (all[i] != NULL) {
         py.Py_DecRef(all[i]);
      }
   }
   py.PyErr_Clear();
}

/* Let Python find packages that lie in a folder, its .pth files honoured. */
static void add_packages(const char *folder)
{
   Object *site = py.PyImport_ImportModule("site");
   Object *add = site != NULL ? py.PyObject_GetAttrString(site, "addsitedir") : NULL;
   Object *path = py.PyUnicode_DecodeUTF8(folder, (ssize_t)strlen(folder), "surrogateescape");
   if (add != NULL && path != NULL) {
      Object *done = py.PyObject_Vectorcall(add, &path, 1, NULL);
      if (done != NULL) {
         py.Py_DecRef(done);
      }
   }
   Object *all[] = {site, add, path};
   for (size_t i = 0; i < 3; i++) {
      if (all[i] != NULL) {
         py.Py_DecRef(all[i]);
      }
   }
   py.PyErr_Clear(); /* the import that follows tells whether it helped */
}

static int import_calls(const char *packages)
{
   Object *module = py.PyImport_ImportModule("diskkit.capi.calls");
   if (module == NULL && packages[0] != 0) {
      py.PyErr_Clear();
      add_packages(packages);
      module = py.PyImport_ImportModule("diskkit.capi.calls");
   }
   if (module == NULL) {
      explain("the Python package diskkit cannot be loaded");
      return -1;
   }
   Object *found[CALL_COUNT] = {NULL};
   for (int i = 0; i < CALL_COUNT; i++) {
      found[i] = py.PyObject_GetAttrString(module, names[i]);
      if (found[i] == NULL) {
         explain("the Python package diskkit does not fit this library");
         return -1;
      }
   }
   Object *arguments[] = {py.PyLong_FromUnsignedLongLong(CALLS_VERSION), make_say(), make_keep(),
                          make_forget()};
   Object *done = NULL;
   if (arguments[0] && arguments[1] && arguments[2] && arguments[3]) {
      done = py.PyObject_Vectorcall(found[CALL_start], arguments, 4, NULL);
   }
   if (done == NULL) {
      explain("the Python package diskkit cannot be used");
      return -1;
   }
   py.Py_DecRef(done);
   memcpy(functions, found, sizeof functions);
   return 0;
}

/* A libpython without its modules ends the process when it is started. */
static int has_modules(const char *library)
{
   char home[4096], probe[4200];
   Dl_info info;
   if (dladdr(dlsym(dlopen(library, RTLD_NOW | RTLD_NOLOAD), "Py_InitializeEx"), &info) == 0) {
      return 1;
   }
   snprintf(home, sizeof home, "%s", info.dli_fname);
   const char *name = strrchr(home, '/');
   int major, minor;
   if (name == NULL || sscanf(name, "/libpython%d.%d", &major, &minor) != 2) {
      return 1;
   }
   for (int level = 0; level < 3; level++) {
      char *slash = strrchr(home, '/');
      if (slash == NULL) {
         break;
      }
      *slash = 0;
      snprintf(probe, sizeof probe, "%s/lib/python%d.%d/os.py", home, major, minor);
      if (access(probe, R_OK) == 0) {
         return 1;
      }
      snprintf(probe, sizeof probe, "%s/lib64/python%d.%d/os.py", home, major, minor);
      if (access(probe, R_OK) == 0) {
         return 1;
      }
   }
   snprintf(why_not, sizeof why_not, "%.500s has no standard library beside it", library);
   return 0;
}

static int start_locked(void)
{
   Found found;
   void *library = RTLD_DEFAULT;
   int (*running)(void) = dlsym(RTLD_DEFAULT, "Py_IsInitialized");
   memset(&found, 0, sizeof found);
   if (running != NULL && running()) {
      find_packages(&found);
   } else {
      if (find_python(&found, why_not, sizeof why_not) != 0) {
         return -1;
      }
      /* Global, because Python's own extension modules are not linked to it. */
      library = dlopen(found.libpython, RTLD_NOW | RTLD_GLOBAL);
      if (library == NULL) {
         snprintf(why_not, sizeof why_not,
                  "no shared libpython for %.300s (%.500s); install it, for example Debian's "
                  "package libpython3.11",
                  found.executable, dlerror());
         return -1;
      }
   }
   if (load(library) != 0) {
      return -1;
   }
   int kept;
   if (py.Py_IsInitialized()) {
      kept = enter();
   } else {
      if (!has_modules(found.libpython) ||
          initialize(library, found.executable) != 0) {
         return -1;
      }
      /* This thread's state is the main one: it must outlive the thread. */
      own_state = py.PyGILState_GetThisThreadState();
      kept = STICKY;
   }
   int failed = import_calls(found.packages);
   leave(kept);
   return failed;
}

/* What the program does about its signals. Python's own module for them, when it is loaded, takes
   SIGINT from a program that had left it alone: ^C would end nothing any more. */
static struct sigaction dispositions[65];

static void keep_dispositions(void)
{
   for (int number = 1; number < 65; number++) {
      sigaction(number, NULL, &dispositions[number]);
   }
}

static void restore_dispositions(void)
{
   struct sigaction now;
   for (int number = 1; number < 65; number++) {
      if (sigaction(number, NULL, &now) == 0 &&
          now.sa_handler != dispositions[number].sa_handler) {
         sigaction(number, &dispositions[number], NULL);
      }
   }
}

VixError python_start(void)
{
   if (forked) {
      warn_client("diskkit: cannot be used in a child made by fork after its start\n");
      return VIX_E_FAIL;
   }
   pthread_mutex_lock(&starting);
   if (!started) {
      sigset_t all, before;
      /* Threads that start here, numpy's for one, must not take the program's signals. */
      sigfillset(&all);
      pthread_sigmask(SIG_SETMASK, &all, &before);
      why_not[0] = 0;
      keep_dispositions();
      if (start_locked() == 0) {
         __sync_synchronize();
         started = 1;
      }
      restore_dispositions();
      pthread_sigmask(SIG_SETMASK, &before, NULL);
   }
   pthread_mutex_unlock(&starting);
   if (!started) {
      warn_client("diskkit: %s\n", why_not);
      return VIX_E_DISK_SUBSYSTEM_INIT_FAIL;
   }
   return VIX_OK;
}

/* ---- Calls ------------------------------------------------------------------------------- */

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
