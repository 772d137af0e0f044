/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The old way to connect, of the time before 6.7: the program declares the parameters itself. It
 * still works. There is one warning, and what 6.7 brought is not there.
 *
 * usage: connect_old DISK
 */

#include <stdio.h>
#include <string.h>

#include "vixDiskLib.h"

static void warn(const char *format, va_list arguments)
{
   fputs("warning: ", stdout);
   vprintf(format, arguments);
}

static void show(const char *what, VixError code)
{
   printf("%s: %llu\n", what, (unsigned long long)code);
}

int main(int argc, char **argv)
{
   VixDiskLibConnectParams params;
   VixDiskLibConnection connection = NULL;
   VixDiskLibHandle disk = NULL;
   VixDiskLibBlockList *blocks = NULL;
   uint8 sector[VIXDISKLIB_SECTOR_SIZE];

   if (argc != 2 || VixDiskLib_InitEx(6, 7, NULL, warn, NULL, NULL, NULL) != VIX_OK) {
      return 2;
   }
   memset(&params, 0, sizeof params); /* no server: disks of this machine */
   show("connect", VixDiskLib_ConnectEx(&params, TRUE, NULL, NULL, &connection));
   show("disconnect", VixDiskLib_Disconnect(connection));
   show("connect again", VixDiskLib_ConnectEx(&params, TRUE, NULL, NULL, &connection));
   show("open", VixDiskLib_Open(connection, argv[1], VIXDISKLIB_FLAG_OPEN_READ_ONLY, &disk));
   show("read", VixDiskLib_Read(disk, 0, 1, sector));
   show("allocated blocks",
        VixDiskLib_QueryAllocatedBlocks(disk, 0, 128, VIXDISKLIB_MIN_CHUNK_SIZE, &blocks));
   show("close", VixDiskLib_Close(disk));
   show("disconnect", VixDiskLib_Disconnect(connection));
   VixDiskLib_Exit();
   return 0;
}
