/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vixdisk: one program that shows how the functions of VixDiskLib are used. Its options are those
 * that the sample of VDDK has, so what was written for that works with this.
 * arguments.c has the options, bench.c the commands that move much data.
 */

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vixdisk.h"

VixDiskLibConnection connection;

/* ---- Messages ---------------------------------------------------------------------------- */

/* Tell of a failure; returns the code, so that a call can be wrapped in it. */
VixError told(VixError code, const char *what, const char *path)
{
   if (VIX_FAILED(code)) {
      char *text = VixDiskLib_GetErrorText(code, NULL);
      fprintf(stderr, "vixdisk: %s %s: error %llu: %s\n", what, path,
              (unsigned long long)VIX_ERROR_CODE(code), text);
      VixDiskLib_FreeErrorText(text);
   }
   return code;
}

static void log_nothing(const char *format, va_list arguments)
{
   (void)format;
   (void)arguments;
}

static void warn(const char *format, va_list arguments)
{
   fputs("vixdisk: ", stderr);
   vfprintf(stderr, format, arguments);
}

static void panic(const char *format, va_list arguments)
{
   warn(format, arguments);
   exit(3);
}

static Bool show_progress(void *what, int percent)
{
   if (isatty(STDERR_FILENO)) {
      fprintf(stderr, "\r%s: %d %%%s", (const char *)what, percent, percent < 100 ? "" : "\n");
   }
   return TRUE;
}

void *need(size_t size)
{
   /* A multiple of a sector, where a sector may begin: disks opened unbuffered want that. */
   void *memory = aligned_alloc(4096, (size + 4095) / 4096 * 4096);
   if (memory == NULL) {
      fputs("vixdisk: out of memory\n", stderr);
      exit(3);
   }
   return memory;
}

/* ---- Connecting and opening -------------------------------------------------------------- */

static void fill_login(VixDiskLibConnectParams *params)
{
   if (set.cookie != NULL) {
      params->credType = VIXDISKLIB_CRED_SESSIONID;
      params->creds.sessionId.cookie = (char *)set.cookie;
      params->creds.sessionId.userName = (char *)set.user;
      params->creds.sessionId.key = (char *)set.password;
   } else {
      params->credType = VIXDISKLIB_CRED_UID;
      params->creds.uid.userName = (char *)set.user;
      params->creds.uid.password = (char *)set.password;
   }
}

static void fill_disk(VixDiskLibConnectParams *params)
{
   params->specType = VIXDISKLIB_SPEC_VMX;
   params->vmxSpec = (char *)set.vm;
   if (set.fcd != NULL) {
      params->specType = VIXDISKLIB_SPEC_VSTORAGE_OBJECT;
      params->spec.vStorageObjSpec.id = (char *)set.fcd;
      params->spec.vStorageObjSpec.datastoreMoRef = (char *)set.fcd_datastore;
      params->spec.vStorageObjSpec.ssId = (char *)set.fcd_session;
   }
}

/* To the host that was named, or to this machine. */
static VixError connect_to(int local, Bool read_only, VixDiskLibConnection *to)
{
   VixDiskLibConnectParams *params = NULL;
   if (!local && set.host != NULL) {
      params = VixDiskLib_AllocateConnectParams();
      if (params == NULL) {
         return told(VIX_E_OUT_OF_MEMORY, "connecting to", set.host);
      }
      params->serverName = (char *)set.host;
      params->thumbPrint = (char *)set.thumb;
      params->port = (uint32)set.port;
      params->nfcHostPort = (uint32)set.nfc_port;
      params->vimApiVer = (char *)set.vimapi;
      fill_login(params);
      fill_disk(params);
   }
   VixError code = VixDiskLib_ConnectEx(params, read_only, set.snapshot, set.mode, to);
   /* The texts in it are not the library's: they are arguments of this program. */
   VixDiskLib_FreeConnectParams(params);
   return told(code, "connecting to", params != NULL ? set.host : "this machine");
}

static uint32 open_flags(void)
{
   uint32 flags = set.single ? VIXDISKLIB_FLAG_OPEN_SINGLE_LINK : 0;
   if (set.compress != NULL) {
      flags |= set.compress[0] == 'z'   ? VIXDISKLIB_FLAG_OPEN_COMPRESSION_ZLIB
               : set.compress[0] == 'f' ? VIXDISKLIB_FLAG_OPEN_COMPRESSION_FASTLZ
                                        : VIXDISKLIB_FLAG_OPEN_COMPRESSION_SKIPZ;
   }
   return flags;
}

VixError open_disk(const char *path, uint32 flags, VixDiskLibHandle *disk)
{
   return told(VixDiskLib_Open(connection, path, flags | open_flags(), disk), "opening", path);
}

/* Close a disk; the first failure counts, that of `code` or that of closing. */
VixError close_disk(VixDiskLibHandle disk, const char *path, VixError code)
{
   VixError closed = told(VixDiskLib_Close(disk), "closing", path);
   return code != VIX_OK ? code : closed;
}

VixError capacity_of(VixDiskLibHandle disk, const char *path, uint64 *sectors)
{
   VixDiskLibInfo *info = NULL;
   VixError code = told(VixDiskLib_GetInfo(disk, &info), "asking about", path);
   if (code == VIX_OK) {
      *sectors = info->capacity;
      VixDiskLib_FreeInfo(info);
   }
   return code;
}

/* ---- Making disks ------------------------------------------------------------------------ */

VixDiskLibCreateParams new_disk(uint64 sectors)
{
   VixDiskLibCreateParams params = {
      .diskType = VIXDISKLIB_DISK_MONOLITHIC_SPARSE,
      .adapterType = strcmp(set.adapter, "ide") == 0 ? VIXDISKLIB_ADAPTER_IDE
                                                     : VIXDISKLIB_ADAPTER_SCSI_BUSLOGIC,
      .hwVersion = VIXDISKLIB_HWVERSION_WORKSTATION_5,
      .capacity = sectors,
   };
   return params;
}

static VixError do_create(VixDiskLibHandle none)
{
   VixDiskLibCreateParams params = new_disk(set.megabytes * (1 << 20) / SECTOR);
   (void)none;
   return told(VixDiskLib_Create(connection, set.path, &params, show_progress, "create"),
               "creating", set.path);
}

static VixError do_redo(VixDiskLibHandle none)
{
   VixDiskLibHandle parent;
   VixError code = open_disk(set.first, READ_ONLY, &parent);
   (void)none;
   if (code == VIX_OK) {
      code = VixDiskLib_CreateChild(parent, set.path, VIXDISKLIB_DISK_MONOLITHIC_SPARSE,
                                    show_progress, "create");
      code = close_disk(parent, set.first, told(code, "creating", set.path));
   }
   return code;
}

/* From a disk of this machine to the one that the connection reaches. */
static VixError do_clone(VixDiskLibHandle none)
{
   VixDiskLibConnection here;
   VixDiskLibCreateParams params = new_disk(0); /* the source says how large */
   VixError code = connect_to(1, TRUE, &here);
   (void)none;
   if (code == VIX_OK) {
      code = VixDiskLib_Clone(connection, set.path, here, set.first, &params, show_progress,
                              "clone", FALSE);
      told(code, "cloning to", set.path);
      VixDiskLib_Disconnect(here);
   }
   return code;
}

/* ---- Telling about disks ----------------------------------------------------------------- */

static const char *adapter_name(VixDiskLibAdapterType type)
{
   static const char *const names[] = {"unknown", "ide", "buslogic", "lsilogic"};
   return (unsigned)type < 4 ? names[type] : names[0];
}

static void show_geometry(const char *whose, const VixDiskLibGeometry *geometry)
{
   printf("%s geometry: %u cylinders, %u heads, %u sectors\n", whose, geometry->cylinders,
          geometry->heads, geometry->sectors);
}

static VixError do_info(VixDiskLibHandle disk)
{
   VixDiskLibInfo *info = NULL;
   VixError code = told(VixDiskLib_GetInfo(disk, &info), "asking about", set.path);
   if (code != VIX_OK) {
      return code;
   }
   printf("capacity: %llu sectors\n", (unsigned long long)info->capacity);
   printf("links: %d\n", info->numLinks);
   printf("adapter: %s\n", adapter_name(info->adapterType));
   show_geometry("BIOS", &info->biosGeo);
   show_geometry("physical", &info->physGeo);
   printf("sector sizes: %u logical, %u physical\n", info->logicalSectorSize,
          info->physicalSectorSize);
   printf("parent: %s\n", info->parentFileNameHint != NULL ? info->parentFileNameHint : "none");
   printf("transport modes: %s\n", VixDiskLib_ListTransportModes());
   printf("transport mode in use: %s\n", VixDiskLib_GetTransportMode(disk));
   VixDiskLib_FreeInfo(info);
   return VIX_OK;
}

static void dump_line(uint64 offset, const uint8 *bytes)
{
   printf("%08llx ", (unsigned long long)offset);
   for (int i = 0; i < 16; i++) {
      printf(" %02x", bytes[i]);
   }
   fputs("  ", stdout);
   for (int i = 0; i < 16; i++) {
      putchar(isprint(bytes[i]) ? bytes[i] : '.');
   }
   putchar('\n');
}

static VixError do_dump(VixDiskLibHandle disk)
{
   uint8 sector[SECTOR] __attribute__((aligned(SECTOR)));
   VixError code = VIX_OK;
   for (uint64 i = 0; i < set.count && code == VIX_OK; i++) {
      code = told(VixDiskLib_Read(disk, set.start + i, 1, sector), "reading", set.path);
      for (int at = 0; at < SECTOR && code == VIX_OK; at += 16) {
         dump_line((set.start + i) * SECTOR + (uint64)at, sector + at);
      }
   }
   return code;
}

/* ---- Allocated blocks -------------------------------------------------------------------- */

/* Runs come in ascending order; neighbours of two queries are joined. */
typedef struct {
   uint64 offset, length;
} Run;

static void show_run(const Run *run)
{
   if (run->length > 0) {
      printf("%llu %llu\n", (unsigned long long)run->offset, (unsigned long long)run->length);
   }
}

static void next_run(Run *last, uint64 offset, uint64 length)
{
   if (last->length > 0 && last->offset + last->length == offset) {
      last->length += length;
      return;
   }
   show_run(last);
   last->offset = offset;
   last->length = length;
}

/* Whole chunks only can be asked for; what is left at the end counts as allocated. */
static VixError show_blocks(VixDiskLibHandle disk, uint64 capacity)
{
   Run last = {0, 0};
   uint64 chunks = capacity / set.chunk, offset = 0;
   while (chunks > 0) {
      uint64 some = chunks < VIXDISKLIB_MAX_CHUNK_NUMBER ? chunks : VIXDISKLIB_MAX_CHUNK_NUMBER;
      VixDiskLibBlockList *list = NULL;
      VixError code = VixDiskLib_QueryAllocatedBlocks(disk, offset, some * set.chunk, set.chunk,
                                                      &list);
      if (told(code, "asking for the blocks of", set.path) != VIX_OK) {
         return code;
      }
      for (uint32 i = 0; i < list->numBlocks; i++) {
         next_run(&last, list->blocks[i].offset, list->blocks[i].length);
      }
      VixDiskLib_FreeBlockList(list);
      offset += some * set.chunk;
      chunks -= some;
   }
   if (offset < capacity) {
      next_run(&last, offset, capacity - offset);
   }
   show_run(&last);
   return VIX_OK;
}

static VixError do_blocks(VixDiskLibHandle disk)
{
   uint64 capacity = 0;
   if (set.chunk < VIXDISKLIB_MIN_CHUNK_SIZE || set.chunk > VIXDISKLIB_MAX_CHUNK_SIZE) {
      return told(VIX_E_INVALID_ARG, "with this -chunksize:", set.path);
   }
   VixError code = capacity_of(disk, set.path, &capacity);
   return code == VIX_OK ? show_blocks(disk, capacity) : code;
}

/* ---- Metadata ---------------------------------------------------------------------------- */

/* The value of a key, to be freed; NULL after a failure. */
static char *value_of(VixDiskLibHandle disk, const char *key, VixError *code)
{
   size_t size = 0;
   *code = VixDiskLib_ReadMetadata(disk, key, NULL, 0, &size);
   if (*code != VIX_E_BUFFER_TOOSMALL) {
      told(*code, "reading metadata", key);
      return NULL;
   }
   char *value = need(size);
   *code = told(VixDiskLib_ReadMetadata(disk, key, value, size, NULL), "reading metadata", key);
   if (*code == VIX_OK) {
      return value;
   }
   free(value);
   return NULL;
}

static VixError show_value(VixDiskLibHandle disk, const char *key)
{
   VixError code;
   char *value = value_of(disk, key, &code);
   if (value != NULL) {
      printf("%s = %s\n", key, value);
      free(value);
   }
   return code;
}

static VixError do_rmeta(VixDiskLibHandle disk)
{
   return show_value(disk, set.first);
}

static VixError do_meta(VixDiskLibHandle disk)
{
   size_t size = 0;
   VixError code = VixDiskLib_GetMetadataKeys(disk, NULL, 0, &size);
   if (code != VIX_E_BUFFER_TOOSMALL) {
      return told(code, "reading the metadata of", set.path);
   }
   char *keys = need(size);
   code = told(VixDiskLib_GetMetadataKeys(disk, keys, size, NULL), "reading the metadata of",
               set.path);
   for (char *key = keys; code == VIX_OK && *key != 0; key += strlen(key) + 1) {
      code = show_value(disk, key);
   }
   free(keys);
   return code;
}

static VixError do_wmeta(VixDiskLibHandle disk)
{
   return told(VixDiskLib_WriteMetadata(disk, set.first, set.second), "writing metadata of",
               set.path);
}

/* ---- Filling, checking ------------------------------------------------------------------- */

static VixError do_fill(VixDiskLibHandle disk)
{
   uint8 sector[SECTOR] __attribute__((aligned(SECTOR)));
   VixError code = VIX_OK;
   memset(sector, (int)set.value, sizeof sector);
   for (uint64 i = 0; i < set.count && code == VIX_OK; i++) {
      code = told(VixDiskLib_Write(disk, set.start + i, 1, sector), "writing", set.path);
   }
   return code;
}

static VixError do_check(VixDiskLibHandle none)
{
   (void)none;
   if (strcmp(set.first, "0") != 0 && strcmp(set.first, "1") != 0) {
      return told(VIX_E_INVALID_ARG, "-check takes 0 or 1, not", set.first);
   }
   VixError code = VixDiskLib_CheckRepair(connection, set.path, set.first[0] == '1');
   if (told(code, "checking", set.path) == VIX_OK) {
      printf("%s is consistent\n", set.path);
   }
   return code;
}

/* ---- Running ----------------------------------------------------------------------------- */

const Command commands[] = {
   {"-create", 0, ALONE, do_create, "make a disk (-cap, -adapter)"},
   {"-redo", 1, ALONE, do_redo, "PARENT: make the disk a child of PARENT"},
   {"-clone", 1, ALONE, do_clone, "SOURCE: copy the disk SOURCE with its parents (-adapter)"},
   {"-info", 0, READS, do_info, "tell about the disk"},
   {"-dump", 0, READS, do_dump, "show sectors (-start, -count)"},
   {"-fill", 0, WRITES, do_fill, "fill sectors with a byte (-start, -count, -val)"},
   {"-meta", 0, READS, do_meta, "show all metadata"},
   {"-rmeta", 1, READS, do_rmeta, "KEY: show the metadata of one key"},
   {"-wmeta", 2, WRITES, do_wmeta, "KEY VALUE: write metadata"},
   {"-getallocatedblocks", 0, READS, do_blocks, "list the allocated sectors (-chunksize)"},
   {"-check", 1, ALONE, do_check, "0|1: check the disk; 1 repairs it"},
   {"-readbench", 1, READS, do_bench, "BLOCK: time reading, BLOCK sectors at once"},
   {"-writebench", 1, WRITES, do_bench, "BLOCK: time writing; overwrites the disk (-val)"},
   {"-readasyncbench", 1, READS, do_bench, "BLOCK: the same, asynchronously"},
   {"-writeasyncbench", 1, WRITES, do_bench, "BLOCK: the same, asynchronously"},
   {"-multithread", 1, ALONE, do_multithread, "N: copy the disk N times at once"},
   {NULL, 0, 0, NULL, NULL},
};

static VixError run_command(void)
{
   VixDiskLibHandle disk;
   if (command->needs == ALONE) {
      return command->run(NULL);
   }
   VixError code = open_disk(set.path, command->needs == READS ? READ_ONLY : 0, &disk);
   return code == VIX_OK ? close_disk(disk, set.path, command->run(disk)) : code;
}

int main(int argc, char **argv)
{
   if (argc < 3) {
      return usage(NULL, NULL);
   }
   if (!parse(argc, argv)) {
      return 2;
   }
   VixError code = VixDiskLib_InitEx(6, 7, log_nothing, warn, panic, set.libdir, set.config);
   if (told(code, "starting for", set.path) != VIX_OK) {
      return 1;
   }
   code = connect_to(0, command->needs == READS, &connection);
   if (code == VIX_OK) {
      code = run_command();
      VixDiskLib_Disconnect(connection);
   }
   VixDiskLib_Exit();
   return code == VIX_OK ? 0 : 1;
}
