/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls as the lines of standard input say, one connection and one disk at a time. For each line
 * it prints the code, and the library's text for it.
 */

#include "check.h"

#include <signal.h>
#include <sys/resource.h>

static VixDiskLibConnection here;
static VixDiskLibHandle disk;
static uint8 buffer[1 << 20];

static uint64 number(const char *word)
{
   return word != NULL ? strtoull(word, NULL, 0) : 0;
}

static VixError limit(int what, uint64 most)
{
   struct rlimit limit = {most, most};
   signal(SIGXFSZ, SIG_IGN);
   return setrlimit(what, &limit) == 0 ? VIX_OK : VIX_E_FAIL;
}

static VixError clone(const char *from, const char *to, uint64 kind)
{
   VixDiskLibCreateParams params = {(VixDiskLibDiskType)kind, VIXDISKLIB_ADAPTER_IDE, 4, 0, 0, 0};
   return VixDiskLib_Clone(here, to, here, from, &params, NULL, NULL, FALSE);
}

static VixError close_it(void)
{
   VixDiskLibHandle old = disk;
   disk = NULL;
   return VixDiskLib_Close(old);
}

/* Calls about the open disk. */
static int about_disk(char **w, VixError *code)
{
   if (strcmp(w[0], "close") == 0) {
      *code = close_it();
   } else if (strcmp(w[0], "read") == 0) {
      *code = VixDiskLib_Read(disk, number(w[1]), number(w[2]), buffer);
   } else if (strcmp(w[0], "write") == 0) {
      *code = VixDiskLib_Write(disk, number(w[1]), number(w[2]), buffer);
   } else if (strcmp(w[0], "flush") == 0) {
      *code = VixDiskLib_Flush(disk);
   } else if (strcmp(w[0], "child") == 0) {
      *code = VixDiskLib_CreateChild(disk, w[1], VIXDISKLIB_DISK_MONOLITHIC_SPARSE, NULL, NULL);
   } else if (strcmp(w[0], "wmeta") == 0) {
      *code = VixDiskLib_WriteMetadata(disk, w[1], w[2]);
   } else if (strcmp(w[0], "shrink") == 0) {
      *code = VixDiskLib_Shrink(disk, NULL, NULL);
   } else {
      return 0;
   }
   return 1;
}

static VixError perform(char **w)
{
   VixError code;
   if (about_disk(w, &code)) {
      return code;
   }
   if (strcmp(w[0], "open") == 0) {
      return VixDiskLib_Open(here, w[1], (uint32)number(w[2]), &disk);
   }
   if (strcmp(w[0], "create") == 0) {
      return make(here, w[1], (int)number(w[2]), number(w[3]));
   }
   if (strcmp(w[0], "unlink") == 0) {
      return VixDiskLib_Unlink(here, w[1]);
   }
   if (strcmp(w[0], "rename") == 0) {
      return VixDiskLib_Rename(w[1], w[2]);
   }
   if (strcmp(w[0], "check") == 0) {
      return VixDiskLib_CheckRepair(here, w[1], (Bool)number(w[2]));
   }
   if (strcmp(w[0], "grow") == 0) {
      return VixDiskLib_Grow(here, w[1], number(w[2]), TRUE, NULL, NULL);
   }
   if (strcmp(w[0], "clone") == 0) {
      return clone(w[1], w[2], number(w[3]));
   }
   if (strcmp(w[0], "files") == 0) {
      return limit(RLIMIT_NOFILE, number(w[1]));
   }
   if (strcmp(w[0], "size") == 0) {
      return limit(RLIMIT_FSIZE, number(w[1]));
   }
   printf("no such call: %s\n", w[0]);
   exit(2);
}

static void perform_line(char *line)
{
   char *words[5] = {NULL};
   char *rest = line;
   for (int i = 0; i < 4 && (words[i] = strtok_r(rest, " \n", &rest)) != NULL; i++) {
   }
   VixError code = perform(words);
   char *text = VixDiskLib_GetErrorText(code, NULL);
   printf("%llu %s\n", (unsigned long long)code, text);
   fflush(stdout);
   VixDiskLib_FreeErrorText(text);
}

int main(void)
{
   char line[8192];
   memset(buffer, 0x5A, sizeof buffer);
   OK(init());
   OK(VixDiskLib_Connect(NULL, &here));
   while (fgets(line, sizeof line, stdin) != NULL) {
      perform_line(line);
   }
   VixDiskLib_Exit();
   return wrong_things;
}
