/* SPDX-License-Identifier: Apache-2.0 */
/* Init and Exit in every order, and all calls while the library is not ready. */

#include "check.h"

static uint8 buffer[65536];
static int callbacks;

static void called(void *data, VixError code)
{
   (void)data;
   (void)code;
   callbacks++;
}

/* Every call that needs Init, with arguments that would be right. */
static void every_call(VixError code)
{
   VixDiskLibConnection none = (VixDiskLibConnection)1;
   VixDiskLibHandle bad = (VixDiskLibHandle)2, disk = (VixDiskLibHandle)&buffer;
   VixDiskLibConnection connection = (VixDiskLibConnection)&buffer;
   VixDiskLibConnectParams *params = (VixDiskLibConnectParams *)&buffer;
   VixDiskLibInfo *info = (VixDiskLibInfo *)&buffer;
   VixDiskLibBlockList *list = (VixDiskLibBlockList *)&buffer;
   uint64 room = 42;
   uint32 counts[2] = {42, 42};
   char text[64] = "x";
   IS(code, VixDiskLib_Connect(NULL, &connection));
   SO(connection == NULL);
   connection = (VixDiskLibConnection)&buffer;
   IS(code, VixDiskLib_ConnectEx(NULL, FALSE, NULL, NULL, &connection));
   IS(code, VixDiskLib_Disconnect(none));
   IS(code, VixDiskLib_PrepareForAccess(NULL, "me"));
   IS(code, VixDiskLib_EndAccess(NULL, "me"));
   IS(code, VixDiskLib_EndAccess(NULL, NULL)); /* clients clean up like this */
   IS(code, VixDiskLib_Cleanup(NULL, &counts[0], &counts[1]));
   IS(code, VixDiskLib_GetConnectParams(none, &params));
   IS(code, make(none, "n.vmdk", VIXDISKLIB_DISK_MONOLITHIC_SPARSE, 128));
   IS(code, VixDiskLib_CreateChild(bad, "n.vmdk", VIXDISKLIB_DISK_MONOLITHIC_SPARSE, NULL, NULL));
   IS(code, VixDiskLib_Open(none, "d.vmdk", 0, &disk));
   IS(code, VixDiskLib_Close(bad));
   IS(code, VixDiskLib_GetInfo(bad, &info));
   SO(VixDiskLib_GetTransportMode(bad) == NULL);
   IS(code, VixDiskLib_Unlink(none, "d.vmdk"));
   IS(code, VixDiskLib_Rename("d.vmdk", "n.vmdk"));
   IS(code, VixDiskLib_Read(bad, 0, 1, buffer));
   IS(code, VixDiskLib_Write(bad, 0, 1, buffer));
   IS(code, VixDiskLib_ReadAsync(bad, 0, 1, buffer, called, NULL));
   IS(code, VixDiskLib_WriteAsync(bad, 0, 1, buffer, called, NULL));
   IS(code, VixDiskLib_Flush(bad));
   IS(code, VixDiskLib_Wait(bad));
   IS(code, VixDiskLib_QueryAllocatedBlocks(bad, 0, 128, 128, &list));
   IS(code, VixDiskLib_ReadMetadata(bad, "uuid", text, sizeof text, NULL));
   IS(code, VixDiskLib_WriteMetadata(bad, "a", "b"));
   IS(code, VixDiskLib_GetMetadataKeys(bad, text, sizeof text, NULL));
   IS(code, VixDiskLib_Grow(none, "d.vmdk", 9999, TRUE, NULL, NULL));
   IS(code, VixDiskLib_Shrink(bad, NULL, NULL));
   IS(code, VixDiskLib_Defragment(bad, NULL, NULL));
   IS(code, VixDiskLib_Clone(none, "n.vmdk", none, "d.vmdk", NULL, NULL, NULL, FALSE));
   IS(code, VixDiskLib_SpaceNeededForClone(bad, VIXDISKLIB_DISK_UNKNOWN, &room));
   IS(code, VixDiskLib_CheckRepair(none, "d.vmdk", FALSE));
   IS(code, VixDiskLib_IsAttachPossible(bad, bad));
   IS(code, VixDiskLib_Attach(bad, bad));
   SO(connection == NULL && params == NULL && disk == NULL && info == NULL && list == NULL);
   SO(room == 42 && counts[0] == 42 && strcmp(text, "x") == 0 && callbacks == 0);
   SO(VixDiskLib_ListTransportModes() != NULL);
}

/* What works without Init, and without Python. */
static void always(void)
{
   VixDiskLibConnectParams *params = VixDiskLib_AllocateConnectParams();
   SO(params != NULL);
   VixDiskLib_FreeConnectParams(params);
   char *text = VixDiskLib_GetErrorText(VIX_E_DISK_FULL, NULL);
   SO(strstr(text, "full") != NULL);
   VixDiskLib_FreeErrorText(text);
   VixDiskLib_FreeInfo(NULL);
   OK(VixDiskLib_FreeBlockList(NULL));
   VixDiskLib_Exit();
   VixDiskLib_Exit();
}

static void failed_inits(void)
{
   IS(VIX_E_NOT_SUPPORTED, VixDiskLib_InitEx(10, 0, NULL, take_warning, NULL, NULL, NULL));
   SO(warnings_seen == 1 && strstr(last_warning, "version 10.0 was asked for") != NULL);
   every_call(VIX_E_DISK_NOINIT);
   IS(VIX_E_NOT_SUPPORTED, VixDiskLib_InitEx(9, 2, NULL, take_warning, NULL, NULL, NULL));
   IS(VIX_E_NOT_SUPPORTED,
      VixDiskLib_InitEx(UINT32_MAX, UINT32_MAX, NULL, take_warning, NULL, NULL, NULL));
   IS(VIX_E_INVALID_ARG, VixDiskLib_InitEx(0, 0, NULL, take_warning, NULL, NULL, NULL));
   IS(VIX_E_FILE_NOT_FOUND, VixDiskLib_InitEx(7, 0, NULL, take_warning, NULL, NULL, "no/conf"));
   SO(strstr(last_warning, "no/conf") != NULL);
   every_call(VIX_E_DISK_NOINIT);
   always();
}

static void versions(void)
{
   static const uint32 asked[][2] = {{1, 0}, {1, 2}, {5, 0}, {6, 0}, {6, 5}, {6, 7},
                                     {7, 0}, {8, 0}, {8, 3}, {9, 0}, {9, 1}};
   for (size_t i = 0; i < sizeof asked / sizeof asked[0]; i++) {
      OK(VixDiskLib_Init(asked[i][0], asked[i][1], NULL, take_warning, NULL, NULL));
      VixDiskLib_Exit();
   }
}

static void twice_and_again(void)
{
   VixDiskLibConnection here = NULL;
   VixDiskLibHandle disk = NULL;
   OK(init());
   OK(VixDiskLib_Connect(NULL, &here));
   OK(make(here, "d.vmdk", VIXDISKLIB_DISK_MONOLITHIC_SPARSE, 128));
   OK(VixDiskLib_Open(here, "d.vmdk", 0, &disk));
   OK(VixDiskLib_Write(disk, 0, 1, buffer));
   unsigned before = warnings_seen;
   OK(init()); /* without Exit: told, and what is open stays open */
   SO(warnings_seen == before + 1);
   memset(buffer, 0x42, SECTOR);
   OK(VixDiskLib_Write(disk, 1, 1, buffer));
   VixDiskLib_Exit(); /* closes it */
   every_call(VIX_E_DISK_NOINIT);
   OK(init());
   IS(VIX_E_DISK_INVALID_CONNECTION, VixDiskLib_Disconnect(here));
   IS(VIX_E_DISK_INVAL, VixDiskLib_Close(disk));
   OK(VixDiskLib_Connect(NULL, &here));
   OK(VixDiskLib_Open(here, "d.vmdk", 0, &disk)); /* nothing holds it any more */
   memset(buffer, 0, SECTOR);
   OK(VixDiskLib_Read(disk, 1, 1, buffer));
   SO(buffer[0] == 0x42 && buffer[SECTOR - 1] == 0x42);
   VixDiskLib_Exit();
   always();
   /* Callbacks of the last life are not called in the next. */
   before = warnings_seen;
   OK(VixDiskLib_Init(6, 7, NULL, NULL, NULL, NULL));
   OK(VixDiskLib_Connect(NULL, &here));
   IS(VIX_E_FILE_NOT_FOUND, VixDiskLib_Unlink(here, "none.vmdk"));
   SO(warnings_seen == before);
   VixDiskLib_Exit();
}

int main(void)
{
   every_call(VIX_E_DISK_NOINIT);
   always();
   failed_inits();
   versions();
   twice_and_again();
   return finish();
}
