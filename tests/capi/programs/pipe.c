/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nobody reads the standard error of this program any more, and it takes no lines itself. Neither
 * what C says nor what Python logs may end it.
 */

#include "check.h"

#include <sys/wait.h>

int main(void)
{
   int ends[2], status;
   VixDiskLibConnection here = NULL;
   SO(pipe(ends) == 0 && close(ends[0]) == 0 && dup2(ends[1], STDERR_FILENO) >= 0);
   IS(VIX_E_NOT_SUPPORTED, VixDiskLib_InitEx(70, 0, NULL, NULL, NULL, NULL, NULL));
   OK(VixDiskLib_InitEx(7, 0, NULL, NULL, NULL, NULL, NULL));
   OK(VixDiskLib_Connect(NULL, &here));
   IS(VIX_E_FILE_NOT_FOUND, VixDiskLib_Unlink(here, "none.vmdk"));
   fflush(stdout);
   pid_t child = fork();
   if (child == 0) {
      IS(VIX_E_FAIL, VixDiskLib_InitEx(7, 0, NULL, NULL, NULL, NULL, NULL));
      _exit(wrong_things);
   }
   SO(waitpid(child, &status, 0) == child && status == 0);
   VixDiskLib_Exit();
   return finish();
}
