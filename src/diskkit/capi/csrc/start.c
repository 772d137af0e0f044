/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Python's life in this process. Nothing is started before it is needed, because programs fork
 * between loading a library and using it; and Python is never ended.
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

#include "inside.h"

Python py;

Object *functions[CALL_COUNT];
const char *const names[CALL_COUNT] = {
#define NAME(name) #name,
   CALLS(NAME)
#undef NAME
};

static pthread_mutex_t starting = PTHREAD_MUTEX_INITIALIZER;
static char why_not[1024];

static void child_begins(void)
{
   pthread_mutex_init(&starting, NULL);
}

__attribute__((constructor)) static void watch_forks(void)
{
   pthread_atfork(NULL, NULL, child_begins);
}

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
      this_thread_is_main();
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
