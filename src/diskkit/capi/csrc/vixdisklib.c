/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The functions of VixDiskLib. Each hands its arguments to the function of diskkit/capi/calls.py
 * that does the work, and gives the client what that answers, in memory of this library.
 */

#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "later.h"
#include "params.h"
#include "python.h"
#include "texts.h"

_Static_assert(sizeof(VixDiskLibInfo) == 64, "the layout of 7.0");
_Static_assert(sizeof(VixDiskLibCreateParams) == 32, "the layout of 7.0");
_Static_assert(sizeof(VixDiskLibBlockList) == 24, "the layout of 6.7");

/* The version that the client asked for: from 7 on its structs for new disks are longer. */
static volatile uint32 asked_major;

static const char *const modes[] = {"file", "san", "hotadd", "nbdssl", "nbd"};

/* ---- Life of the library ----------------------------------------------------------------- */

VixError VixDiskLib_Init(uint32 majorVersion, uint32 minorVersion, VixDiskLibGenericLogFunc *log,
                         VixDiskLibGenericLogFunc *warn, VixDiskLibGenericLogFunc *panic,
                         const char *libDir)
{
   return VixDiskLib_InitEx(majorVersion, minorVersion, log, warn, panic, libDir, NULL);
}

VixError VixDiskLib_InitEx(uint32 majorVersion, uint32 minorVersion,
                           VixDiskLibGenericLogFunc *log, VixDiskLibGenericLogFunc *warn,
                           VixDiskLibGenericLogFunc *panic, const char *libDir,
                           const char *configFile)
{
   Call call;
   messages_to(log, warn, panic);
   VixError code = python_start();
   if (code != VIX_OK || (code = call_begin(&call, CALL_init)) != VIX_OK) {
      return code;
   }
   call_number(&call, majorVersion);
   call_number(&call, minorVersion);
   call_number(&call, messages_wanted());
   call_text(&call, libDir);
   call_text(&call, configFile);
   code = call_end(&call);
   if (code == VIX_OK) {
      asked_major = majorVersion;
   }
   return code;
}

void VixDiskLib_Exit(void)
{
   Call call;
   later_wait(NULL);
   if (call_begin(&call, CALL_exit) == VIX_OK) {
      call_end(&call);
   }
   messages_to(NULL, NULL, NULL);
   asked_major = 0;
}

const char *VixDiskLib_ListTransportModes(void)
{
   static char list[64];
   static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
   Call call;
   char *answer;
   size_t size;
   if (call_begin(&call, CALL_list_transport_modes) != VIX_OK ||
       call_end_bytes(&call, 0, &answer, &size) != VIX_OK) {
      return modes[0];
   }
   pthread_mutex_lock(&lock);
   snprintf(list, sizeof list, "%s", answer);
   pthread_mutex_unlock(&lock);
   free(answer);
   return list;
}

/* ---- Errors ------------------------------------------------------------------------------ */

static const char *plain_text(VixError err)
{
   for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
      if (texts[i].code == VIX_ERROR_CODE(err)) {
         return texts[i].text;
      }
   }
   return UNKNOWN_TEXT;
}

static char no_memory[] = "There is not enough memory.";

char *VixDiskLib_GetErrorText(VixError err, const char *locale)
{
   Call call;
   char *answer;
   size_t size;
   (void)locale;
   if (python_usable() && call_begin(&call, CALL_error_text) == VIX_OK) {
      call_number(&call, err);
      if (call_end_bytes(&call, 0, &answer, &size) == VIX_OK) {
         return answer;
      }
   }
   const char *why = err == VIX_E_DISK_SUBSYSTEM_INIT_FAIL ? python_why_not() : "";
   const char *form = *why != 0 ? "%s (%s)" : "%s";
   return asprintf(&answer, form, plain_text(err), why) < 0 ? no_memory : answer;
}

void VixDiskLib_FreeErrorText(char *errMsg)
{
   if (errMsg != no_memory) {
      free(errMsg);
   }
}

/* ---- Connections ------------------------------------------------------------------------- */

/* The answer that is a handle. */
static VixError end_handle(Call *call, void **handle)
{
   uint64_t number = 0;
   VixError code = call_end_into(call, &number, sizeof number);
   *handle = code == VIX_OK ? (void *)(uintptr_t)number : NULL;
   return code;
}

VixError VixDiskLib_Connect(const VixDiskLibConnectParams *connectParams,
                            VixDiskLibConnection *connection)
{
   return VixDiskLib_ConnectEx(connectParams, FALSE, NULL, NULL, connection);
}

VixError VixDiskLib_ConnectEx(const VixDiskLibConnectParams *connectParams, Bool readOnly,
                              const char *snapshotRef, const char *transportModes,
                              VixDiskLibConnection *connection)
{
   Call call;
   if (connection == NULL) {
      return VIX_E_INVALID_ARG;
   }
   *connection = NULL;
   VixError code = call_begin(&call, CALL_connect);
   if (code != VIX_OK) {
      return code;
   }
   call_number(&call, readOnly != 0);
   call_text(&call, snapshotRef);
   call_text(&call, transportModes);
   call_params(&call, connectParams);
   return end_handle(&call, (void **)connection);
}

VixError VixDiskLib_Disconnect(VixDiskLibConnection connection)
{
   Call call;
   VixError code = call_begin(&call, CALL_disconnect);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, connection);
   return call_end(&call);
}

static VixError about_machine(CallName name, const VixDiskLibConnectParams *connectParams,
                              const char *identity)
{
   Call call;
   VixError code = call_begin(&call, name);
   if (code != VIX_OK) {
      return code;
   }
   call_text(&call, identity);
   call_params(&call, connectParams);
   return call_end(&call);
}

VixError VixDiskLib_PrepareForAccess(const VixDiskLibConnectParams *connectParams,
                                     const char *identity)
{
   return about_machine(CALL_prepare, connectParams, identity);
}

VixError VixDiskLib_EndAccess(const VixDiskLibConnectParams *connectParams, const char *identity)
{
   return about_machine(CALL_end_access, connectParams, identity);
}

VixError VixDiskLib_Cleanup(const VixDiskLibConnectParams *connectParams, uint32 *numCleanedUp,
                            uint32 *numRemaining)
{
   Call call;
   uint32 counts[2];
   VixError code = call_begin(&call, CALL_cleanup);
   if (code != VIX_OK) {
      return code;
   }
   call_params(&call, connectParams);
   code = call_end_into(&call, counts, sizeof counts);
   if (code == VIX_OK && numCleanedUp != NULL) {
      *numCleanedUp = counts[0];
   }
   if (code == VIX_OK && numRemaining != NULL) {
      *numRemaining = counts[1];
   }
   return code;
}

VixError VixDiskLib_GetConnectParams(const VixDiskLibConnection connection,
                                     VixDiskLibConnectParams **connectParams)
{
   Call call;
   char *answer;
   size_t size;
   if (connectParams == NULL) {
      return VIX_E_INVALID_ARG;
   }
   *connectParams = NULL;
   VixError code = call_begin(&call, CALL_get_connect_params);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, connection);
   code = call_end_bytes(&call, 0, &answer, &size);
   if (code == VIX_OK) {
      *connectParams = params_from(answer, size);
      code = *connectParams != NULL ? VIX_OK : VIX_E_OUT_OF_MEMORY;
   }
   return code;
}

/* ---- Disks ------------------------------------------------------------------------------- */

/* Five arguments, whatever the client gave. */
static void call_create_params(Call *call, const VixDiskLibCreateParams *params)
{
   /* Clients that do not know these fields leave anything in them; that is taken for 512. */
   int large = params != NULL && asked_major >= 7 && params->logicalSectorSize == 4096;
   call_number(call, params != NULL ? (uint32)params->diskType : 0);
   call_number(call, params != NULL ? (uint32)params->adapterType : 0);
   call_number(call, params != NULL ? params->hwVersion : 0);
   call_number(call, params != NULL ? params->capacity : 0);
   call_number(call, large ? 4096 : 0);
}

VixError VixDiskLib_Create(const VixDiskLibConnection connection, const char *path,
                           const VixDiskLibCreateParams *createParams,
                           VixDiskLibProgressFunc progressFunc, void *progressCallbackData)
{
   Call call;
   VixError code = call_begin(&call, CALL_create);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, connection);
   call_text(&call, path);
   call_number(&call, createParams != NULL);
   call_create_params(&call, createParams);
   call_progress(&call, progressFunc, progressCallbackData);
   return call_end(&call);
}

VixError VixDiskLib_CreateChild(VixDiskLibHandle diskHandle, const char *childPath,
                                VixDiskLibDiskType diskType, VixDiskLibProgressFunc progressFunc,
                                void *progressCallbackData)
{
   Call call;
   VixError code = call_begin(&call, CALL_create_child);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, diskHandle);
   call_text(&call, childPath);
   call_number(&call, (uint32)diskType);
   call_progress(&call, progressFunc, progressCallbackData);
   return call_end(&call);
}

VixError VixDiskLib_Open(const VixDiskLibConnection connection, const char *path, uint32 flags,
                         VixDiskLibHandle *diskHandle)
{
   Call call;
   if (diskHandle == NULL) {
      return VIX_E_INVALID_ARG;
   }
   *diskHandle = NULL;
   VixError code = call_begin(&call, CALL_open);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, connection);
   call_text(&call, path);
   call_number(&call, flags);
   return end_handle(&call, (void **)diskHandle);
}

/* A call that is about one disk and nothing else. */
static VixError about_disk(CallName name, VixDiskLibHandle diskHandle)
{
   Call call;
   VixError code = call_begin(&call, name);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, diskHandle);
   return call_end(&call);
}

VixError VixDiskLib_Close(VixDiskLibHandle diskHandle)
{
   later_wait(diskHandle);
   return about_disk(CALL_close, diskHandle);
}

/* The fixed part of the answer of `get_info`; two texts follow, each with a NUL. */
typedef struct {
   uint32 geometries[6];
   uint64 capacity;
   int32 adapter;
   int32 links;
   uint32 sector_sizes[2];
   uint32 has_parent;
   uint32 has_uuid;
} InfoAnswer;

VixError VixDiskLib_GetInfo(VixDiskLibHandle diskHandle, VixDiskLibInfo **info)
{
   Call call;
   InfoAnswer found;
   char *answer;
   size_t size;
   if (info == NULL) {
      return VIX_E_INVALID_ARG;
   }
   *info = NULL;
   VixError code = call_begin(&call, CALL_get_info);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, diskHandle);
   code = call_end_bytes(&call, sizeof(VixDiskLibInfo), &answer, &size);
   if (code != VIX_OK) {
      return code;
   }
   char *at = answer + sizeof(VixDiskLibInfo);
   size_t parent = size > sizeof found ? strlen(at + sizeof found) + 1 : 0;
   if (size < sizeof found + 2 || sizeof found + parent >= size || at[size - 1] != 0) {
      free(answer);
      return VIX_E_FAIL;
   }
   memcpy(&found, at, sizeof found);
   VixDiskLibInfo *made = (VixDiskLibInfo *)answer;
   memset(made, 0, sizeof *made);
   memcpy(&made->biosGeo, found.geometries, sizeof made->biosGeo);
   memcpy(&made->physGeo, found.geometries + 3, sizeof made->physGeo);
   made->capacity = found.capacity;
   made->adapterType = (VixDiskLibAdapterType)found.adapter;
   made->numLinks = found.links;
   made->parentFileNameHint = found.has_parent ? at + sizeof found : NULL;
   made->uuid = found.has_uuid ? at + sizeof found + parent : NULL;
   made->logicalSectorSize = found.sector_sizes[0];
   made->physicalSectorSize = found.sector_sizes[1];
   *info = made;
   return VIX_OK;
}

void VixDiskLib_FreeInfo(VixDiskLibInfo *info)
{
   free(info);
}

const char *VixDiskLib_GetTransportMode(VixDiskLibHandle diskHandle)
{
   Call call;
   uint64_t which;
   if (call_begin(&call, CALL_get_transport_mode) != VIX_OK) {
      return NULL;
   }
   call_handle(&call, diskHandle);
   if (call_end_into(&call, &which, sizeof which) != VIX_OK ||
       which >= sizeof modes / sizeof modes[0]) {
      return NULL;
   }
   return modes[which];
}

VixError VixDiskLib_Unlink(VixDiskLibConnection connection, const char *path)
{
   Call call;
   VixError code = call_begin(&call, CALL_unlink);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, connection);
   call_text(&call, path);
   return call_end(&call);
}

VixError VixDiskLib_Rename(const char *srcFileName, const char *dstFileName)
{
   Call call;
   VixError code = call_begin(&call, CALL_rename);
   if (code != VIX_OK) {
      return code;
   }
   call_text(&call, srcFileName);
   call_text(&call, dstFileName);
   return call_end(&call);
}

/* ---- Data -------------------------------------------------------------------------------- */

static uint64_t transfer(CallName name, VixDiskLibHandle diskHandle, uint64 start, uint64 count,
                         const uint8 *buffer, int access)
{
   Call call;
   VixError code = call_begin(&call, name);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, diskHandle);
   call_number(&call, start);
   call_number(&call, count);
   call_buffer(&call, buffer, count, access);
   call_number(&call, (uintptr_t)buffer % VIXDISKLIB_SECTOR_SIZE);
   return call_end_number(&call);
}

static int read_at_once(VixDiskLibHandle diskHandle, uint64 start, uint64 count, uint8 *buffer)
{
   return python_usable() && stretch_read((uintptr_t)diskHandle, start, count, buffer);
}

VixError VixDiskLib_Read(VixDiskLibHandle diskHandle, VixDiskLibSectorType startSector,
                         VixDiskLibSectorType numSectors, uint8 *readBuffer)
{
   if (read_at_once(diskHandle, startSector, numSectors, readBuffer)) {
      return VIX_OK;
   }
   return transfer(CALL_read, diskHandle, startSector, numSectors, readBuffer, BUFFER_WRITE);
}

VixError VixDiskLib_Write(VixDiskLibHandle diskHandle, VixDiskLibSectorType startSector,
                          VixDiskLibSectorType numSectors, const uint8 *writeBuffer)
{
   return transfer(CALL_write, diskHandle, startSector, numSectors, writeBuffer, BUFFER_READ);
}

/*
 * Local disks are read and written at once; only the answer takes the way of a later one. A call
 * that is refused has a plain code; one that was begun has VIX_ASYNC below and its code above.
 */
static VixError transfer_later(CallName name, VixDiskLibHandle diskHandle, uint64 start,
                               uint64 count, const uint8 *buffer, VixDiskLibCompletionCB callback,
                               void *cbData)
{
   Later later;
   uint64_t answer = VIX_ASYNC;
   int reading = name == CALL_read_later;
   if (callback == NULL) {
      return VIX_E_INVALID_ARG;
   }
   later_begin(&later, diskHandle);
   if (!reading || !read_at_once(diskHandle, start, count, (uint8 *)buffer)) {
      answer = transfer(name, diskHandle, start, count, buffer,
                        reading ? BUFFER_WRITE : BUFFER_READ);
   }
   if ((uint32)answer == VIX_ASYNC) {
      later_call(&later, callback, cbData, answer >> 32);
      answer = VIX_ASYNC;
   }
   later_end(&later);
   return answer;
}

VixError VixDiskLib_ReadAsync(VixDiskLibHandle diskHandle, VixDiskLibSectorType startSector,
                              VixDiskLibSectorType numSectors, uint8 *readBuffer,
                              VixDiskLibCompletionCB callback, void *cbData)
{
   return transfer_later(CALL_read_later, diskHandle, startSector, numSectors, readBuffer,
                         callback, cbData);
}

VixError VixDiskLib_WriteAsync(VixDiskLibHandle diskHandle, VixDiskLibSectorType startSector,
                               VixDiskLibSectorType numSectors, const uint8 *writeBuffer,
                               VixDiskLibCompletionCB callback, void *cbData)
{
   return transfer_later(CALL_write_later, diskHandle, startSector, numSectors, writeBuffer,
                         callback, cbData);
}

VixError VixDiskLib_Flush(VixDiskLibHandle diskHandle)
{
   later_wait(diskHandle);
   return about_disk(CALL_flush, diskHandle);
}

VixError VixDiskLib_Wait(VixDiskLibHandle diskHandle)
{
   VixError code = about_disk(CALL_wait, diskHandle);
   if (code == VIX_OK && later_within(diskHandle)) {
      return VIX_E_OBJECT_IS_BUSY; /* its own end cannot be waited for */
   }
   if (code == VIX_OK) {
      later_wait(diskHandle);
   }
   return code;
}

VixError VixDiskLib_QueryAllocatedBlocks(VixDiskLibHandle diskHandle,
                                         VixDiskLibSectorType startSector,
                                         VixDiskLibSectorType numSectors,
                                         VixDiskLibSectorType chunkSize,
                                         VixDiskLibBlockList **blockList)
{
   enum { HEAD = offsetof(VixDiskLibBlockList, blocks) };
   Call call;
   char *answer;
   size_t size;
   if (blockList == NULL) {
      return VIX_E_INVALID_ARG;
   }
   *blockList = NULL;
   VixError code = call_begin(&call, CALL_allocated_blocks);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, diskHandle);
   call_number(&call, startSector);
   call_number(&call, numSectors);
   call_number(&call, chunkSize);
   /* A list that is empty has room for a block all the same, as its type says. */
   code = call_end_bytes(&call, HEAD, &answer, &size);
   if (code != VIX_OK) {
      return code;
   }
   if (size == 0) {
      free(answer);
      answer = malloc(sizeof(VixDiskLibBlockList));
      if (answer == NULL) {
         return VIX_E_OUT_OF_MEMORY;
      }
   }
   memset(answer, 0, HEAD);
   *blockList = (VixDiskLibBlockList *)answer;
   (*blockList)->numBlocks = (uint32)(size / sizeof(VixDiskLibBlock));
   return VIX_OK;
}

VixError VixDiskLib_FreeBlockList(VixDiskLibBlockList *blockList)
{
   free(blockList);
   return VIX_OK;
}

/* ---- Metadata ---------------------------------------------------------------------------- */

/* Hand over a text whose last NUL the answer has not. */
static VixError hand_over(char *answer, size_t size, char *buf, size_t room, size_t *requiredLen)
{
   VixError code = VIX_OK;
   if (requiredLen != NULL) {
      *requiredLen = size + 1;
   }
   if (buf == NULL || room < size + 1) {
      code = VIX_E_BUFFER_TOOSMALL;
   } else {
      memcpy(buf, answer, size + 1);
   }
   free(answer);
   return code;
}

VixError VixDiskLib_ReadMetadata(VixDiskLibHandle diskHandle, const char *key, char *buf,
                                 size_t bufLen, size_t *requiredLen)
{
   Call call;
   char *answer;
   size_t size;
   VixError code = call_begin(&call, CALL_read_metadata);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, diskHandle);
   call_text(&call, key);
   code = call_end_bytes(&call, 0, &answer, &size);
   return code == VIX_OK ? hand_over(answer, size, buf, bufLen, requiredLen) : code;
}

VixError VixDiskLib_WriteMetadata(VixDiskLibHandle diskHandle, const char *key, const char *val)
{
   Call call;
   VixError code = call_begin(&call, CALL_write_metadata);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, diskHandle);
   call_text(&call, key);
   call_text(&call, val);
   return call_end(&call);
}

VixError VixDiskLib_GetMetadataKeys(VixDiskLibHandle diskHandle, char *keys, size_t maxLen,
                                    size_t *requiredLen)
{
   Call call;
   char *answer;
   size_t size;
   VixError code = call_begin(&call, CALL_metadata_keys);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, diskHandle);
   code = call_end_bytes(&call, 0, &answer, &size);
   return code == VIX_OK ? hand_over(answer, size, keys, maxLen, requiredLen) : code;
}

/* ---- Maintenance ------------------------------------------------------------------------- */

VixError VixDiskLib_Grow(VixDiskLibConnection connection, const char *path,
                         VixDiskLibSectorType capacity, Bool updateGeometry,
                         VixDiskLibProgressFunc progressFunc, void *progressCallbackData)
{
   Call call;
   VixError code = call_begin(&call, CALL_grow);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, connection);
   call_text(&call, path);
   call_number(&call, capacity);
   call_number(&call, updateGeometry != 0);
   call_progress(&call, progressFunc, progressCallbackData);
   return call_end(&call);
}

static VixError tidy(CallName name, VixDiskLibHandle diskHandle,
                     VixDiskLibProgressFunc progressFunc, void *progressCallbackData)
{
   Call call;
   VixError code = call_begin(&call, name);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, diskHandle);
   call_progress(&call, progressFunc, progressCallbackData);
   return call_end(&call);
}

VixError VixDiskLib_Shrink(VixDiskLibHandle diskHandle, VixDiskLibProgressFunc progressFunc,
                           void *progressCallbackData)
{
   return tidy(CALL_shrink, diskHandle, progressFunc, progressCallbackData);
}

VixError VixDiskLib_Defragment(VixDiskLibHandle diskHandle, VixDiskLibProgressFunc progressFunc,
                               void *progressCallbackData)
{
   return tidy(CALL_defragment, diskHandle, progressFunc, progressCallbackData);
}

VixError VixDiskLib_Clone(const VixDiskLibConnection dstConnection, const char *dstPath,
                          const VixDiskLibConnection srcConnection, const char *srcPath,
                          const VixDiskLibCreateParams *vixCreateParams,
                          VixDiskLibProgressFunc progressFunc, void *progressCallbackData,
                          Bool overWrite)
{
   Call call;
   VixError code = call_begin(&call, CALL_clone);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, dstConnection);
   call_text(&call, dstPath);
   call_handle(&call, srcConnection);
   call_text(&call, srcPath);
   call_number(&call, overWrite != 0);
   call_number(&call, vixCreateParams != NULL);
   call_create_params(&call, vixCreateParams);
   call_progress(&call, progressFunc, progressCallbackData);
   return call_end(&call);
}

VixError VixDiskLib_SpaceNeededForClone(VixDiskLibHandle diskHandle,
                                        VixDiskLibDiskType cloneDiskType, uint64 *spaceNeeded)
{
   Call call;
   if (spaceNeeded == NULL) {
      return VIX_E_INVALID_ARG;
   }
   VixError code = call_begin(&call, CALL_space_needed);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, diskHandle);
   call_number(&call, (uint32)cloneDiskType);
   return call_end_into(&call, spaceNeeded, sizeof *spaceNeeded);
}

VixError VixDiskLib_CheckRepair(const VixDiskLibConnection connection, const char *filename,
                                Bool repair)
{
   Call call;
   VixError code = call_begin(&call, CALL_check_repair);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, connection);
   call_text(&call, filename);
   call_number(&call, repair != 0);
   return call_end(&call);
}

static VixError about_two(CallName name, VixDiskLibHandle parent, VixDiskLibHandle child)
{
   Call call;
   VixError code = call_begin(&call, name);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, parent);
   call_handle(&call, child);
   return call_end(&call);
}

VixError VixDiskLib_IsAttachPossible(VixDiskLibHandle parent, VixDiskLibHandle child)
{
   return about_two(CALL_is_attach_possible, parent, child);
}

VixError VixDiskLib_Attach(VixDiskLibHandle parent, VixDiskLibHandle child)
{
   return about_two(CALL_attach, parent, child);
}
