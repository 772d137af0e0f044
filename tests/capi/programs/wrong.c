/* SPDX-License-Identifier: Apache-2.0 */
/* Each function used wrongly: NULL, handles that are none, and what belongs to no call. */

#include "check.h"

#define ARG VIX_E_INVALID_ARG
#define SECTORS 1024

static VixDiskLibConnection here;
static VixDiskLibHandle disk;
static uint8 buffer[SECTORS * SECTOR];
static int callbacks;

static void called(void *data, VixError code)
{
   (void)data;
   (void)code;
   callbacks++;
}

/* NULL for each pointer argument in turn; what may be NULL is in uses.c. */
static void nulls_of_connections(void)
{
   uint32 count;
   VixDiskLibConnectParams *params = (VixDiskLibConnectParams *)&buffer;
   IS(ARG, VixDiskLib_Connect(NULL, NULL));
   IS(ARG, VixDiskLib_ConnectEx(NULL, FALSE, NULL, NULL, NULL));
   IS(VIX_E_DISK_INVALID_CONNECTION, VixDiskLib_Disconnect(NULL));
   IS(ARG, VixDiskLib_PrepareForAccess(NULL, NULL));
   IS(ARG, VixDiskLib_EndAccess(NULL, NULL));
   OK(VixDiskLib_Cleanup(NULL, NULL, NULL));
   OK(VixDiskLib_Cleanup(NULL, &count, NULL));
   OK(VixDiskLib_Cleanup(NULL, NULL, &count));
   IS(ARG, VixDiskLib_GetConnectParams(here, NULL));
   IS(ARG, VixDiskLib_GetConnectParams(NULL, NULL));
   IS(VIX_E_DISK_INVALID_CONNECTION, VixDiskLib_GetConnectParams(NULL, &params));
   SO(params == NULL);
   VixDiskLib_FreeConnectParams(NULL);
}

static void nulls_of_disks(void)
{
   VixDiskLibCreateParams params = {VIXDISKLIB_DISK_MONOLITHIC_SPARSE,
                                    VIXDISKLIB_ADAPTER_IDE, 7, SECTORS, 0, 0};
   VixDiskLibHandle handle = (VixDiskLibHandle)&buffer;
   VixDiskLibInfo *info = (VixDiskLibInfo *)&buffer;
   IS(ARG, VixDiskLib_Create(here, NULL, &params, NULL, NULL));
   IS(ARG, VixDiskLib_Create(here, "", &params, NULL, NULL));
   IS(ARG, VixDiskLib_Create(here, "n.vmdk", NULL, NULL, NULL));
   IS(VIX_E_DISK_INVALID_CONNECTION, VixDiskLib_Create(NULL, "n.vmdk", &params, NULL, NULL));
   IS(ARG, VixDiskLib_CreateChild(disk, NULL, VIXDISKLIB_DISK_MONOLITHIC_SPARSE, NULL, NULL));
   IS(ARG, VixDiskLib_CreateChild(NULL, "n.vmdk", VIXDISKLIB_DISK_MONOLITHIC_SPARSE, NULL, NULL));
   IS(ARG, VixDiskLib_Open(here, "d.vmdk", 0, NULL));
   IS(ARG, VixDiskLib_Open(here, NULL, 0, &handle));
   SO(handle == NULL);
   IS(VIX_E_DISK_INVALID_CONNECTION, VixDiskLib_Open(NULL, "d.vmdk", 0, &handle));
   IS(ARG, VixDiskLib_Close(NULL));
   IS(ARG, VixDiskLib_GetInfo(disk, NULL));
   IS(ARG, VixDiskLib_GetInfo(NULL, &info));
   SO(info == NULL);
   VixDiskLib_FreeInfo(NULL);
   SO(VixDiskLib_GetTransportMode(NULL) == NULL);
   IS(ARG, VixDiskLib_Unlink(here, NULL));
   IS(VIX_E_DISK_INVALID_CONNECTION, VixDiskLib_Unlink(NULL, "d.vmdk"));
   IS(ARG, VixDiskLib_Rename(NULL, "n.vmdk"));
   IS(ARG, VixDiskLib_Rename("d.vmdk", NULL));
}

static void nulls_of_data(void)
{
   VixDiskLibBlockList *list = (VixDiskLibBlockList *)&buffer;
   IS(ARG, VixDiskLib_Read(NULL, 0, 1, buffer));
   IS(ARG, VixDiskLib_Read(disk, 0, 1, NULL));
   IS(ARG, VixDiskLib_Write(NULL, 0, 1, buffer));
   IS(ARG, VixDiskLib_Write(disk, 0, 1, NULL));
   IS(ARG, VixDiskLib_ReadAsync(NULL, 0, 1, buffer, called, NULL));
   IS(ARG, VixDiskLib_ReadAsync(disk, 0, 1, NULL, called, NULL));
   IS(ARG, VixDiskLib_ReadAsync(disk, 0, 1, buffer, NULL, NULL));
   IS(ARG, VixDiskLib_WriteAsync(NULL, 0, 1, buffer, called, NULL));
   IS(ARG, VixDiskLib_WriteAsync(disk, 0, 1, NULL, called, NULL));
   IS(ARG, VixDiskLib_WriteAsync(disk, 0, 1, buffer, NULL, NULL));
   IS(ARG, VixDiskLib_Flush(NULL));
   IS(ARG, VixDiskLib_Wait(NULL));
   IS(ARG, VixDiskLib_QueryAllocatedBlocks(disk, 0, 128, 128, NULL));
   IS(ARG, VixDiskLib_QueryAllocatedBlocks(NULL, 0, 128, 128, &list));
   SO(list == NULL);
   OK(VixDiskLib_FreeBlockList(NULL));
   SO(callbacks == 0);
}

static void nulls_of_the_rest(void)
{
   uint64 room;
   size_t needed;
   IS(ARG, VixDiskLib_ReadMetadata(disk, NULL, NULL, 0, &needed));
   IS(ARG, VixDiskLib_ReadMetadata(NULL, "uuid", NULL, 0, &needed));
   IS(VIX_E_BUFFER_TOOSMALL, VixDiskLib_ReadMetadata(disk, "uuid", NULL, 99, NULL));
   IS(ARG, VixDiskLib_WriteMetadata(disk, NULL, "x"));
   IS(ARG, VixDiskLib_WriteMetadata(disk, "x", NULL));
   IS(ARG, VixDiskLib_WriteMetadata(NULL, "x", "x"));
   IS(ARG, VixDiskLib_GetMetadataKeys(NULL, NULL, 0, &needed));
   IS(VIX_E_BUFFER_TOOSMALL, VixDiskLib_GetMetadataKeys(disk, NULL, 0, NULL));
   IS(ARG, VixDiskLib_Grow(here, NULL, SECTORS * 2, TRUE, NULL, NULL));
   IS(VIX_E_DISK_INVALID_CONNECTION, VixDiskLib_Grow(NULL, "d.vmdk", 9999, TRUE, NULL, NULL));
   IS(ARG, VixDiskLib_Shrink(NULL, NULL, NULL));
   IS(ARG, VixDiskLib_Defragment(NULL, NULL, NULL));
   IS(ARG, VixDiskLib_Clone(here, NULL, here, "d.vmdk", NULL, NULL, NULL, FALSE));
   IS(ARG, VixDiskLib_Clone(here, "n.vmdk", here, NULL, NULL, NULL, NULL, FALSE));
   IS(VIX_E_DISK_INVALID_CONNECTION,
      VixDiskLib_Clone(NULL, "n.vmdk", here, "d.vmdk", NULL, NULL, NULL, FALSE));
   IS(VIX_E_DISK_INVALID_CONNECTION,
      VixDiskLib_Clone(here, "n.vmdk", NULL, "d.vmdk", NULL, NULL, NULL, FALSE));
   IS(ARG, VixDiskLib_SpaceNeededForClone(disk, VIXDISKLIB_DISK_MONOLITHIC_FLAT, NULL));
   IS(ARG, VixDiskLib_SpaceNeededForClone(NULL, VIXDISKLIB_DISK_MONOLITHIC_FLAT, &room));
   IS(ARG, VixDiskLib_CheckRepair(here, NULL, FALSE));
   IS(VIX_E_DISK_INVALID_CONNECTION, VixDiskLib_CheckRepair(NULL, "d.vmdk", FALSE));
   IS(ARG, VixDiskLib_IsAttachPossible(NULL, disk));
   IS(ARG, VixDiskLib_IsAttachPossible(disk, NULL));
   IS(ARG, VixDiskLib_Attach(NULL, disk));
   IS(ARG, VixDiskLib_Attach(disk, NULL));
   VixDiskLib_FreeErrorText(NULL);
}

/* All calls that take a disk, with one that is none. */
static void with_disk(VixDiskLibHandle bad, VixError code)
{
   VixDiskLibInfo *info = NULL;
   VixDiskLibBlockList *list = NULL;
   uint64 room = 42;
   char text[64];
   IS(code, VixDiskLib_GetInfo(bad, &info));
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
   IS(code, VixDiskLib_Shrink(bad, NULL, NULL));
   IS(code, VixDiskLib_Defragment(bad, NULL, NULL));
   IS(code, VixDiskLib_SpaceNeededForClone(bad, VIXDISKLIB_DISK_UNKNOWN, &room));
   IS(code, VixDiskLib_CreateChild(bad, "n.vmdk", VIXDISKLIB_DISK_MONOLITHIC_SPARSE, NULL, NULL));
   IS(code, VixDiskLib_IsAttachPossible(bad, bad));
   IS(code, VixDiskLib_Attach(bad, bad));
   IS(code, VixDiskLib_Close(bad));
   SO(VixDiskLib_GetTransportMode(bad) == NULL);
   SO(info == NULL && list == NULL && room == 42 && callbacks == 0);
}

/* All calls that take a connection, with one that is none. */
static void with_connection(VixDiskLibConnection bad, VixError code)
{
   VixDiskLibConnectParams *params = NULL;
   VixDiskLibHandle handle = NULL;
   IS(code, make(bad, "n.vmdk", VIXDISKLIB_DISK_MONOLITHIC_SPARSE, SECTORS));
   IS(code, VixDiskLib_Open(bad, "d.vmdk", 0, &handle));
   IS(code, VixDiskLib_Unlink(bad, "d.vmdk"));
   IS(code, VixDiskLib_Grow(bad, "d.vmdk", SECTORS * 2, FALSE, NULL, NULL));
   IS(code, VixDiskLib_Clone(bad, "n.vmdk", bad, "d.vmdk", NULL, NULL, NULL, TRUE));
   IS(code, VixDiskLib_CheckRepair(bad, "d.vmdk", FALSE));
   IS(code, VixDiskLib_GetConnectParams(bad, &params));
   IS(code, VixDiskLib_Disconnect(bad));
   SO(handle == NULL && params == NULL);
}

static void wrong_handles(void)
{
   VixDiskLibHandle closed = NULL;
   VixDiskLibConnection gone = NULL;
   OK(make(here, "e.vmdk", VIXDISKLIB_DISK_MONOLITHIC_SPARSE, SECTORS));
   OK(VixDiskLib_Open(here, "e.vmdk", 0, &closed));
   OK(VixDiskLib_Close(closed));
   with_disk(closed, VIX_E_DISK_INVAL); /* closed twice, and used after */
   with_disk((VixDiskLibHandle)here, VIX_E_DISK_INVAL);
   with_disk((VixDiskLibHandle)&buffer, VIX_E_DISK_INVAL);
   with_disk((VixDiskLibHandle)UINTPTR_MAX, VIX_E_DISK_INVAL);
   OK(VixDiskLib_Connect(NULL, &gone));
   OK(VixDiskLib_Open(gone, "e.vmdk", 0, &closed));
   OK(VixDiskLib_Disconnect(gone));
   with_disk(closed, VIX_E_DISK_INVAL); /* its connection closed it */
   with_connection(gone, VIX_E_DISK_INVALID_CONNECTION);
   with_connection((VixDiskLibConnection)disk, VIX_E_DISK_INVALID_CONNECTION);
   with_connection((VixDiskLibConnection)&buffer, VIX_E_DISK_INVALID_CONNECTION);
   with_connection((VixDiskLibConnection)UINTPTR_MAX, VIX_E_DISK_INVALID_CONNECTION);
}

static void wrong_ranges(void)
{
   static const uint64 huge[] = {SECTORS, SECTORS + 1, 1ull << 54, 1ull << 55, 1ull << 63,
                                 UINT64_MAX};
   memset(buffer, 0xAA, sizeof buffer);
   for (size_t i = 0; i < sizeof huge / sizeof huge[0]; i++) {
      IS(VIX_E_DISK_OUTOFRANGE, VixDiskLib_Read(disk, huge[i], 1, buffer));
      IS(VIX_E_DISK_OUTOFRANGE, VixDiskLib_Write(disk, huge[i], 1, buffer));
      IS(VIX_E_DISK_OUTOFRANGE, VixDiskLib_ReadAsync(disk, huge[i], 1, buffer, called, NULL));
      IS(VIX_E_DISK_OUTOFRANGE, VixDiskLib_WriteAsync(disk, huge[i], 1, buffer, called, NULL));
      SO(VixDiskLib_Read(disk, 1, huge[i], buffer) == VIX_E_DISK_OUTOFRANGE);
      SO(VixDiskLib_Write(disk, 1, huge[i], buffer) == VIX_E_DISK_OUTOFRANGE);
      SO(VixDiskLib_Read(disk, huge[i], huge[i], buffer) == VIX_E_DISK_OUTOFRANGE);
   }
   IS(ARG, VixDiskLib_Read(disk, 0, 0, buffer));
   IS(ARG, VixDiskLib_Write(disk, 0, 0, buffer));
   IS(ARG, VixDiskLib_ReadAsync(disk, 0, 0, buffer, called, NULL));
   for (size_t i = 0; i < sizeof buffer; i++) {
      if (buffer[i] != 0xAA) {
         SO(!"a refused call leaves the buffer alone");
         break;
      }
   }
   SO(callbacks == 0);
}

/* The limits of QueryAllocatedBlocks, each from both sides. */
static void wrong_blocks(void)
{
   static const struct {
      uint64 start, count, chunk;
      VixError code;
   } rows[] = {
      {0, 128, 127, ARG},
      {0, 128, 128, VIX_OK},
      {0, 0, 128, ARG},
      {0, 131072, 131072, VIX_OK},
      {0, 131073, 131073, ARG},
      {0, 128, 0, ARG},
      {0, 128, UINT64_MAX, ARG},
      {64, 128, 128, ARG},
      {0, 192, 128, ARG},
      {0, SECTORS, 128, VIX_OK},
      {128, SECTORS, 128, VIX_E_DISK_OUTOFRANGE},
      {SECTORS, 128, 128, VIX_E_DISK_OUTOFRANGE},
      {0, 900, 300, VIX_OK},
      {900, 300, 300, VIX_OK}, /* the last chunk may pass the end */
      {600, 900, 300, VIX_E_DISK_OUTOFRANGE},
      {0, 524288ull * 128, 128, VIX_E_DISK_OUTOFRANGE},
      {0, 524289ull * 128, 128, ARG},
      {0, 1ull << 63, 128, ARG},
      {1ull << 63, 128, 128, VIX_E_DISK_OUTOFRANGE},
      {UINT64_MAX - 127, 128, 128, VIX_E_DISK_OUTOFRANGE},
   };
   for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
      VixDiskLibBlockList *list = (VixDiskLibBlockList *)&buffer;
      VixError code = VixDiskLib_QueryAllocatedBlocks(disk, rows[i].start, rows[i].count,
                                                      rows[i].chunk, &list);
      is_code((int)i, "row of QueryAllocatedBlocks", code, rows[i].code);
      SO((list != NULL) == (code == VIX_OK));
      VixDiskLib_FreeBlockList(list);
   }
}

static void wrong_kinds(void)
{
   static const int kinds[] = {0, 9, 255, 256, -1, VIXDISKLIB_DISK_VMFS_SPARSE};
   VixDiskLibHandle handle;
   uint64 room;
   for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
      IS(ARG, make(here, "n.vmdk", kinds[i], SECTORS));
      if (kinds[i] != VIXDISKLIB_DISK_UNKNOWN) {
         IS(ARG, VixDiskLib_SpaceNeededForClone(disk, (VixDiskLibDiskType)kinds[i], &room));
      }
   }
   IS(ARG, make(here, "n.vmdk", VIXDISKLIB_DISK_MONOLITHIC_SPARSE, 0));
   SO(make(here, "n.vmdk", VIXDISKLIB_DISK_MONOLITHIC_SPARSE, UINT64_MAX) != VIX_OK);
   SO(access("n.vmdk", F_OK) != 0);
   IS(ARG, VixDiskLib_Open(here, "d.vmdk", 1 << 3, &handle));
   IS(ARG, VixDiskLib_Open(here, "d.vmdk", VIXDISKLIB_FLAG_OPEN_COMPRESSION_MASK, &handle));
   IS(ARG, VixDiskLib_Open(here, "d.vmdk", UINT32_MAX, &handle));
   VixDiskLibConnection none = here;
   IS(ARG, VixDiskLib_ConnectEx(NULL, FALSE, NULL, "file:pigeon", &none));
   SO(none == NULL);
}

static void unbuffered(void)
{
   VixDiskLibHandle handle = NULL;
   OK(make(here, "u.vmdk", VIXDISKLIB_DISK_MONOLITHIC_SPARSE, SECTORS));
   OK(VixDiskLib_Open(here, "u.vmdk", VIXDISKLIB_FLAG_OPEN_UNBUFFERED, &handle));
   uint8 *page = aligned_alloc(4096, 8192);
   memset(page, 1, 8192);
   OK(VixDiskLib_Write(handle, 0, 2, page + 512));
   OK(VixDiskLib_Read(handle, 0, 2, page));
   IS(ARG, VixDiskLib_Write(handle, 0, 2, page + 8));
   IS(ARG, VixDiskLib_Read(handle, 0, 2, page + 511));
   IS(ARG, VixDiskLib_ReadAsync(handle, 0, 2, page + 1, called, NULL));
   SO(callbacks == 0);
   OK(VixDiskLib_Close(handle));
   OK(VixDiskLib_Read(disk, 0, 2, page + 1)); /* others take any */
   free(page);
}

int main(void)
{
   OK(init());
   OK(VixDiskLib_Connect(NULL, &here));
   OK(make(here, "d.vmdk", VIXDISKLIB_DISK_MONOLITHIC_SPARSE, SECTORS));
   OK(VixDiskLib_Open(here, "d.vmdk", 0, &disk));
   nulls_of_connections();
   nulls_of_disks();
   nulls_of_data();
   nulls_of_the_rest();
   wrong_ranges();
   wrong_blocks();
   wrong_handles();
   wrong_kinds();
   unbuffered();
   OK(VixDiskLib_Close(disk));
   VixDiskLib_Exit();
   return finish();
}
