/* SPDX-License-Identifier: Apache-2.0 */
/* Each of the 43 functions, used as it should be, in the order of a program's life. */

#include "check.h"

#define SECTORS (128 * 40 + 24)

static VixDiskLibConnection here;
static uint8 content[SECTORS * SECTOR], buffer[SECTORS * SECTOR];

/* Progress as a callback sees it. */
static int last_percent = -1, fell, odd_data;

static Bool progress(void *data, int percent)
{
   fell += percent < last_percent || percent < 0 || percent > 100;
   odd_data += data != &last_percent;
   last_percent = percent;
   return FALSE; /* does not count */
}

static void progressed(int line)
{
   is_so(line, "progress ended at 100 and never fell", last_percent == 100 && !fell && !odd_data);
   last_percent = -1;
}

#define PROGRESS progress, &last_percent
#define PROGRESSED() progressed(__LINE__)

static void fill(void)
{
   for (uint64 chunk = 1; chunk < 39; chunk += 1 + chunk % 3) {
      for (uint64 i = 0; i < 128 * SECTOR; i++) {
         content[chunk * 128 * SECTOR + i] = (uint8)(chunk + i / 7);
      }
   }
   memset(content + (SECTORS - 24) * SECTOR, 9, 24 * SECTOR);
}

static int same(VixDiskLibHandle disk)
{
   memset(buffer, 0xAA, sizeof buffer);
   return VixDiskLib_Read(disk, 0, SECTORS, buffer) == VIX_OK &&
          memcmp(buffer, content, sizeof buffer) == 0;
}

static VixDiskLibHandle opened(const char *path, uint32 flags)
{
   VixDiskLibHandle disk = NULL;
   OK(VixDiskLib_Open(here, path, flags, &disk));
   SO(disk != NULL);
   return disk;
}

static void connecting(void)
{
   VixDiskLibConnection other = NULL;
   VixDiskLibConnectParams *params = VixDiskLib_AllocateConnectParams(), *copy = NULL;
   static const uint8 zeros[sizeof *params];
   uint32 cleaned = 77, left = 77;
   SO(params != NULL && memcmp(params, zeros, sizeof zeros) == 0);
   OK(VixDiskLib_Connect(NULL, &here));
   OK(VixDiskLib_ConnectEx(params, FALSE, "", "file", &other));
   OK(VixDiskLib_PrepareForAccess(params, "me"));
   OK(VixDiskLib_EndAccess(params, "me"));
   OK(VixDiskLib_Cleanup(params, &cleaned, &left));
   SO(cleaned == 0 && left == 0);
   OK(VixDiskLib_GetConnectParams(other, &copy));
   SO(copy != NULL && copy->serverName == NULL && copy != params);
   VixDiskLib_FreeConnectParams(copy);
   VixDiskLib_FreeConnectParams(params);
   OK(VixDiskLib_Disconnect(other));
   SO(strcmp(VixDiskLib_ListTransportModes(), "file") == 0);
}

static void making_and_telling(void)
{
   VixDiskLibCreateParams params = {VIXDISKLIB_DISK_MONOLITHIC_SPARSE,
                                    VIXDISKLIB_ADAPTER_IDE, 9, SECTORS, 512, 512};
   VixDiskLibInfo *info = NULL;
   OK(VixDiskLib_Create(here, "d.vmdk", &params, PROGRESS));
   PROGRESSED();
   VixDiskLibHandle disk = opened("d.vmdk", 0);
   OK(VixDiskLib_GetInfo(disk, &info));
   SO(info->capacity == SECTORS && info->adapterType == VIXDISKLIB_ADAPTER_IDE);
   SO(info->numLinks == 1 && info->parentFileNameHint == NULL && strlen(info->uuid) == 47);
   SO(info->logicalSectorSize == 512 && info->physicalSectorSize == 512);
   SO(info->physGeo.heads > 0 && info->biosGeo.sectors > 0);
   VixDiskLib_FreeInfo(info);
   SO(strcmp(VixDiskLib_GetTransportMode(disk), "file") == 0);
   OK(VixDiskLib_Close(disk));
}

static int callbacks;

static void called(void *data, VixError code)
{
   callbacks++;
   SO(code == VIX_OK && data == &callbacks);
}

static void moving_data(void)
{
   VixDiskLibHandle disk = opened("d.vmdk", 0);
   uint64 half = SECTORS / 2;
   fill();
   OK(VixDiskLib_Write(disk, 0, half, content));
   IS(VIX_ASYNC, VixDiskLib_WriteAsync(disk, half, SECTORS - half, content + half * SECTOR, called,
                                       &callbacks));
   OK(VixDiskLib_Wait(disk));
   OK(VixDiskLib_Flush(disk));
   SO(same(disk));
   memset(buffer, 0xAA, sizeof buffer);
   IS(VIX_ASYNC, VixDiskLib_ReadAsync(disk, 0, SECTORS, buffer, called, &callbacks));
   OK(VixDiskLib_Wait(disk));
   SO(callbacks == 2 && memcmp(buffer, content, sizeof buffer) == 0);
   OK(VixDiskLib_Close(disk));
   disk = opened("d.vmdk", VIXDISKLIB_FLAG_OPEN_READ_ONLY);
   SO(same(disk));
   OK(VixDiskLib_Close(disk));
}

static int has_data(uint64 chunk)
{
   uint64 from = chunk * 128 * SECTOR, size = 128 * SECTOR;
   size = from + size > sizeof content ? sizeof content - from : size;
   for (uint64 i = from; i < from + size; i++) {
      if (content[i] != 0) {
         return 1;
      }
   }
   return 0;
}

/* Ascending, apart, inside, and exactly the chunks that were written. */
static void asking_for_blocks(void)
{
   VixDiskLibHandle disk = opened("d.vmdk", VIXDISKLIB_FLAG_OPEN_READ_ONLY);
   VixDiskLibBlockList *list = NULL;
   uint64 end = 0, chunks = 0, expected = 0;
   OK(VixDiskLib_QueryAllocatedBlocks(disk, 0, 128 * 41, 128, &list));
   for (uint32 i = 0; i < list->numBlocks; i++) {
      VixDiskLibBlock block = list->blocks[i];
      SO((i == 0 || block.offset > end) && block.length > 0 && block.offset % 128 == 0);
      end = block.offset + block.length;
      SO(end <= SECTORS && (end % 128 == 0 || end == SECTORS));
      for (uint64 chunk = block.offset / 128; chunk < (end + 127) / 128; chunk++, chunks++) {
         SO(has_data(chunk));
      }
   }
   for (uint64 chunk = 0; chunk <= 40; chunk++) {
      expected += (uint64)has_data(chunk);
   }
   SO(chunks == expected && expected > 10);
   OK(VixDiskLib_FreeBlockList(list));
   OK(VixDiskLib_QueryAllocatedBlocks(disk, 0, 128, 128, &list));
   SO(list != NULL && list->numBlocks == 0);
   OK(VixDiskLib_FreeBlockList(list));
   OK(VixDiskLib_Close(disk));
}

static void metadata(void)
{
   VixDiskLibHandle disk = opened("d.vmdk", 0);
   size_t needed = 0;
   OK(VixDiskLib_WriteMetadata(disk, "note", "f\xc3\xbcnf"));
   IS(VIX_E_BUFFER_TOOSMALL, VixDiskLib_ReadMetadata(disk, "note", NULL, 0, &needed));
   SO(needed == 6);
   char *text = malloc(needed); /* exactly; an allocator that checks sees a byte more */
   OK(VixDiskLib_ReadMetadata(disk, "note", text, needed, NULL));
   SO(strcmp(text, "f\xc3\xbcnf") == 0);
   memset(text, 'x', needed);
   size_t told = 0;
   IS(VIX_E_BUFFER_TOOSMALL, VixDiskLib_ReadMetadata(disk, "note", text, needed - 1, &told));
   SO(told == needed && memcmp(text, "xxxxxx", needed) == 0);
   free(text);
   IS(VIX_E_BUFFER_TOOSMALL, VixDiskLib_GetMetadataKeys(disk, NULL, 0, &needed));
   char *keys = malloc(needed);
   memset(keys, 'x', needed);
   IS(VIX_E_BUFFER_TOOSMALL, VixDiskLib_GetMetadataKeys(disk, keys, needed - 1, NULL));
   SO(keys[0] == 'x');
   OK(VixDiskLib_GetMetadataKeys(disk, keys, needed, &told));
   SO(told == needed && keys[needed - 1] == 0 && keys[needed - 2] == 0);
   int found = 0;
   for (char *key = keys; *key != 0; key += strlen(key) + 1) {
      found += strcmp(key, "note") == 0 || strcmp(key, "adapterType") == 0;
   }
   SO(found == 2);
   free(keys);
   OK(VixDiskLib_Close(disk));
   SO(same(disk = opened("d.vmdk", VIXDISKLIB_FLAG_OPEN_READ_ONLY)));
   OK(VixDiskLib_Close(disk));
}

static void children(void)
{
   uint8 sector[SECTOR];
   VixDiskLibHandle base = opened("d.vmdk", VIXDISKLIB_FLAG_OPEN_READ_ONLY);
   OK(VixDiskLib_CreateChild(base, "c.vmdk", VIXDISKLIB_DISK_MONOLITHIC_SPARSE, PROGRESS));
   PROGRESSED();
   VixDiskLibHandle child = opened("c.vmdk", 0);
   memset(sector, 0x55, sizeof sector);
   OK(VixDiskLib_Write(child, 5, 1, sector));
   memcpy(content + 5 * SECTOR, sector, sizeof sector);
   SO(same(child));
   OK(VixDiskLib_Close(child));
   child = opened("c.vmdk", VIXDISKLIB_FLAG_OPEN_READ_ONLY | VIXDISKLIB_FLAG_OPEN_SINGLE_LINK);
   OK(VixDiskLib_IsAttachPossible(base, child));
   OK(VixDiskLib_Attach(base, child));
   OK(VixDiskLib_Close(base));
   SO(same(child));
   OK(VixDiskLib_Close(child));
}

static void upkeep(void)
{
   VixDiskLibCreateParams params = {VIXDISKLIB_DISK_SPLIT_FLAT, VIXDISKLIB_ADAPTER_SCSI_LSILOGIC,
                                    7, 1, 0, 0};
   VixDiskLibInfo *info = NULL;
   uint64 room = 0;
   OK(VixDiskLib_Clone(here, "n.vmdk", here, "c.vmdk", &params, PROGRESS, FALSE));
   PROGRESSED();
   OK(VixDiskLib_Rename("n.vmdk", "m.vmdk"));
   VixDiskLibHandle disk = opened("m.vmdk", 0);
   SO(same(disk));
   OK(VixDiskLib_SpaceNeededForClone(disk, VIXDISKLIB_DISK_MONOLITHIC_FLAT, &room));
   SO(room >= 10 * 128 * SECTOR); /* the chunks with data, at least */
   OK(VixDiskLib_Close(disk));
   OK(VixDiskLib_Grow(here, "m.vmdk", SECTORS + 1000, TRUE, PROGRESS));
   PROGRESSED();
   disk = opened("m.vmdk", VIXDISKLIB_FLAG_OPEN_READ_ONLY);
   OK(VixDiskLib_GetInfo(disk, &info));
   SO(info->capacity == SECTORS + 1000);
   VixDiskLib_FreeInfo(info);
   OK(VixDiskLib_Close(disk));
   OK(VixDiskLib_Unlink(here, "m.vmdk"));
   SO(access("m.vmdk", F_OK) != 0);
   disk = opened("c.vmdk", 0);
   OK(VixDiskLib_Defragment(disk, PROGRESS));
   PROGRESSED();
   OK(VixDiskLib_Shrink(disk, PROGRESS));
   PROGRESSED();
   SO(same(disk));
   OK(VixDiskLib_Close(disk));
   OK(VixDiskLib_CheckRepair(here, "c.vmdk", FALSE));
   OK(VixDiskLib_CheckRepair(here, "c.vmdk", TRUE));
}

static void errors(void)
{
   char *text = VixDiskLib_GetErrorText(VIX_E_FILE_NOT_FOUND, NULL);
   SO(strstr(text, "no such file") != NULL);
   VixDiskLib_FreeErrorText(text);
   /* The last failure of this thread says more than its code. */
   IS(VIX_E_FILE_NOT_FOUND, VixDiskLib_Unlink(here, "none.vmdk"));
   text = VixDiskLib_GetErrorText(VIX_E_FILE_NOT_FOUND, NULL);
   SO(strstr(text, "none.vmdk") != NULL);
   VixDiskLib_FreeErrorText(text);
   SO(strstr(last_warning, "none.vmdk") != NULL);
   unsigned warned = warnings_seen;
   text = VixDiskLib_GetErrorText(99999999999ull, "de");
   SO(text != NULL && text[0] != 0 && warnings_seen == warned);
   VixDiskLib_FreeErrorText(text);
}

int main(void)
{
   OK(VixDiskLib_Init(7, 0, take_line, take_warning, NULL, NULL));
   connecting();
   making_and_telling();
   moving_data();
   asking_for_blocks();
   metadata();
   children();
   upkeep();
   errors();
   OK(VixDiskLib_Disconnect(here));
   VixDiskLib_Exit();
   OK(VixDiskLib_InitEx(6, 5, NULL, NULL, NULL, "/x", NULL));
   VixDiskLib_Exit();
   SO(lines_seen > 10);
   return finish();
}
