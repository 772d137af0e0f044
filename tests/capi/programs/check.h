/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the test programs share. Each runs in a folder of its own, tells on standard output what
 * is not as it should be, and ends with 1 then; `finish` ends it.
 */

#ifndef CHECK_H
#define CHECK_H

#define _GNU_SOURCE
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vixDiskLib.h"

#define SECTOR 512

static int wrong_things;
static unsigned warnings_seen, lines_seen;
static char last_warning[1200];

__attribute__((unused)) static void is_code(int line, const char *call, VixError got,
                                            VixError wanted)
{
   if (got != wanted) {
      char *text = VixDiskLib_GetErrorText(got, NULL);
      printf("line %d: %s is %llu, not %llu: %s\n", line, call, (unsigned long long)got,
             (unsigned long long)wanted, text);
      VixDiskLib_FreeErrorText(text);
      wrong_things++;
   }
}

__attribute__((unused)) static void is_so(int line, const char *what, int it_is)
{
   if (!it_is) {
      printf("line %d: not so: %s\n", line, what);
      wrong_things++;
   }
}

/* A call must return this code. */
#define IS(wanted, call) is_code(__LINE__, #call, (call), (wanted))
#define OK(call) IS(VIX_OK, call)
/* Something must be true. */
#define SO(condition) is_so(__LINE__, #condition, (condition) != 0)

__attribute__((unused)) static int finish(void)
{
   if (wrong_things == 0) {
      puts("all good");
   }
   return wrong_things != 0;
}

__attribute__((unused)) static void take_line(const char *format, va_list arguments)
{
   char line[4096];
   vsnprintf(line, sizeof line, format, arguments);
   __atomic_add_fetch(&lines_seen, 1, __ATOMIC_SEQ_CST);
}

__attribute__((unused)) static void take_warning(const char *format, va_list arguments)
{
   vsnprintf(last_warning, sizeof last_warning, format, arguments);
   __atomic_add_fetch(&warnings_seen, 1, __ATOMIC_SEQ_CST);
}

__attribute__((unused)) static VixError init(void)
{
   return VixDiskLib_InitEx(7, 0, take_line, take_warning, NULL, NULL, NULL);
}

/* A new disk of the kind; `sectors` large. */
__attribute__((unused)) static VixError make(VixDiskLibConnection to, const char *path, int kind,
                                             uint64 sectors)
{
   VixDiskLibCreateParams params = {.diskType = (VixDiskLibDiskType)kind,
                                    .adapterType = VIXDISKLIB_ADAPTER_SCSI_LSILOGIC,
                                    .hwVersion = 7,
                                    .capacity = sectors};
   return VixDiskLib_Create(to, path, &params, NULL, NULL);
}

#endif
