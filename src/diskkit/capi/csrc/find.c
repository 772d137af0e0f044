/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where Python is, told by where this library is:
 *
 *   1. a file diskkit.conf beside the library, or the variable DISKKIT_PYTHON, may say;
 *   2. else the library lies in <environment>/lib/pythonX.Y/site-packages/diskkit/capi/lib64, and
 *      <environment> is a virtual environment, or the prefix of a Python.
 *
 * libpython is then looked for where that Python's home is, and at last by the loader.
 */

#define _GNU_SOURCE
#include <ctype.h>
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "python.h"

#define SIZE sizeof(((Found *)0)->libpython)

static int exists(const char *path)
{
   return access(path, F_OK) == 0;
}

/* Print into `to`, of SIZE bytes; a text that does not fit becomes "", which names nothing. */
static void put(char *to, const char *format, const char *a, const char *b)
{
   char made[SIZE];
   int n = snprintf(made, sizeof made, format, a, b);
   if (n < 0 || (size_t)n >= sizeof made) {
      made[0] = 0;
   }
   memcpy(to, made, strlen(made) + 1);
}

/* Cut the last `levels` names off a path. */
static void up(char *path, int levels)
{
   while (levels-- > 0) {
      char *slash = strrchr(path, '/');
      if (slash == NULL) {
         path[0] = 0;
         return;
      }
      *slash = 0;
   }
}

static void own_path(char *to)
{
   Dl_info info;
   static const char anchor;
   char real[PATH_MAX];
   to[0] = 0;
   if (dladdr(&anchor, &info) != 0 && info.dli_fname != NULL &&
       realpath(info.dli_fname, real) != NULL) {
      put(to, "%s%s", real, "");
   }
}

/* The value of `name` in a file of lines "name = value"; "" if there is none. */
static void look_up(const char *path, const char *name, char *to)
{
   char line[SIZE + 64];
   FILE *file = fopen(path, "re");
   to[0] = 0;
   if (file == NULL) {
      return;
   }
   while (fgets(line, sizeof line, file) != NULL) {
      char *equals = strchr(line, '=');
      if (equals == NULL) {
         continue;
      }
      char *key = line + strspn(line, " \t");
      size_t length = strcspn(key, " \t=");
      char *value = equals + 1 + strspn(equals + 1, " \t");
      size_t end = strlen(value);
      while (end > 0 && isspace((unsigned char)value[end - 1])) {
         value[--end] = 0;
      }
      if (length == strlen(name) && strncmp(key, name, length) == 0) {
         put(to, "%s%s", value, "");
         break;
      }
   }
   fclose(file);
}

/* The "3.11" of a text that has it after `before`; "" else. */
static void version_after(const char *text, const char *before, char *to, size_t size)
{
   const char *at = strstr(text, before);
   to[0] = 0;
   if (at == NULL) {
      return;
   }
   at += strlen(before);
   size_t digits = strspn(at, "0123456789.");
   const char *dot = memchr(at, '.', digits);
   if (dot == NULL) {
      return;
   }
   size_t n = (size_t)(dot - at) + 1 + strspn(dot + 1, "0123456789");
   if (n < size) {
      memcpy(to, at, n);
      to[n] = 0;
   }
}

void find_packages(Found *found)
{
   char path[SIZE], probe[SIZE];
   own_path(path);
   put(probe, "%s%s", path, "");
   up(probe, 1);
   put(probe, "%s/%s", probe, "diskkit.conf");
   look_up(probe, "packages", found->packages);
   if (found->packages[0] != 0) {
      return;
   }
   /* packages/diskkit/capi/lib64/libvixDiskLib.so */
   up(path, 4);
   put(probe, "%s%s", path, "/diskkit/capi/calls.py");
   if (path[0] != 0 && exists(probe)) {
      put(found->packages, "%s%s", path, "");
   }
}

/* The executable of the environment that `packages` belongs to. */
static void find_executable(Found *found)
{
   char root[SIZE], version[16], probe[SIZE];
   char *executable = found->executable;
   put(root, "%s%s", found->packages, "");
   version_after(root, "/lib/python", version, sizeof version);
   up(root, 3);
   put(probe, "%s%s", root, "/pyvenv.cfg");
   if (version[0] == 0) {
      executable[0] = 0;
      return;
   }
   if (exists(probe)) {
      put(executable, "%s%s", root, "/bin/python");
      return;
   }
   put(root, "%s%s", root, "/bin/python");
   put(executable, "%s%s", root, version);
   if (!exists(executable)) {
      /* Packages of one user, or of /usr/local, belong to the system's Python. */
      put(executable, "%s%s", "/usr/bin/python", version);
   }
   if (!exists(executable)) {
      executable[0] = 0;
   }
}

/* The folder of the Python behind an executable, and its version. */
static int find_home(const char *executable, char *home, char *version, size_t size)
{
   char probe[SIZE], value[SIZE], real[PATH_MAX];
   put(probe, "%s%s", executable, "");
   up(probe, 2);
   put(probe, "%s%s", probe, "/pyvenv.cfg");
   look_up(probe, "home", home);
   if (home[0] != 0) {
      look_up(probe, "version", value);
      if (value[0] == 0) {
         look_up(probe, "version_info", value);
      }
      version_after(value, "", version, size);
      return version[0] != 0 ? 0 : -1;
   }
   if (realpath(executable, real) == NULL) {
      return -1;
   }
   char *name = strrchr(real, '/');
   version_after(name, "/python", version, size);
   *name = 0;
   put(home, "%s%s", real, "");
   return version[0] != 0 ? 0 : -1;
}

static int find_libpython(Found *found, const char *home, const char *version)
{
   static const char *const folders[] = {"lib/", "lib64/", "lib/x86_64-linux-gnu/",
                                         "lib/aarch64-linux-gnu/"};
   char prefix[SIZE], name[64], path[SIZE];
   snprintf(name, sizeof name, "libpython%.15s.so.1.0", version);
   put(prefix, "%s%s", home, "");
   up(prefix, 1);
   for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
      put(path, "%s/%s", prefix, folders[i]);
      put(path, "%s%s", path, name);
      if (exists(path)) {
         put(found->libpython, "%s%s", path, "");
         return 0;
      }
   }
   put(found->libpython, "%s%s", name, "");
   return 0;
}

int find_python(Found *found, char *why, size_t size)
{
   char own[SIZE], conf[SIZE], home[SIZE], version[16];
   memset(found, 0, sizeof *found);
   find_packages(found);
   own_path(own);
   put(conf, "%s%s", own, "");
   up(conf, 1);
   put(conf, "%s%s", conf, "/diskkit.conf");

   const char *chosen = secure_getenv("DISKKIT_PYTHON");
   if (chosen != NULL && chosen[0] != 0) {
      put(found->executable, "%s%s", chosen, "");
   } else {
      look_up(conf, "executable", found->executable);
   }
   if (found->executable[0] == 0 && found->packages[0] != 0) {
      find_executable(found);
   }
   if (found->executable[0] == 0) {
      snprintf(why, size, "no Python belongs to %s; set executable= in %s", own, conf);
      return -1;
   }
   if (!exists(found->executable)) {
      snprintf(why, size, "there is no Python %s", found->executable);
      return -1;
   }
   look_up(conf, "libpython", found->libpython);
   if (found->libpython[0] != 0 && (chosen == NULL || chosen[0] == 0)) {
      return 0;
   }
   if (find_home(found->executable, home, version, sizeof version) != 0) {
      snprintf(why, size, "the version of %s is not known; set libpython= in %s",
               found->executable, conf);
      return -1;
   }
   return find_libpython(found, home, version);
}
