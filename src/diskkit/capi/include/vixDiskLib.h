/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The VixDiskLib interface, as diskkit's libvixDiskLib offers it: 43 functions.
 *
 * Everything counted in sectors is in sectors of 512 bytes. Text is UTF-8 and ends with a NUL.
 * A function returns VIX_OK or one of the codes of vixErrors.h; what it returns through a pointer
 * is set only on VIX_OK, unless said otherwise. All functions may be called from any thread, and
 * several at once. Names, values and layouts are those that programs are compiled with; they were
 * not compared with a library of VMware's. docs/vixdisklib.md says what differs from VDDK.
 */

#ifndef DISKKIT_VIXDISKLIB_H
#define DISKKIT_VIXDISKLIB_H

#include <stdarg.h>

#include "vixErrors.h"
#include "vm_basic_types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Sizes ------------------------------------------------------------------------------- */

#define VIXDISKLIB_SECTOR_SIZE 512

/* Sectors of a chunk in VixDiskLib_QueryAllocatedBlocks, and chunks in one query. */
#define VIXDISKLIB_MIN_CHUNK_SIZE 128
#define VIXDISKLIB_MAX_CHUNK_SIZE 131072
#define VIXDISKLIB_MAX_CHUNK_NUMBER 524288

/* ---- Kinds ------------------------------------------------------------------------------- */

typedef enum {
   VIXDISKLIB_DISK_MONOLITHIC_SPARSE = 1, /* grows; one file */
   VIXDISKLIB_DISK_MONOLITHIC_FLAT = 2,   /* whole size; descriptor and one file */
   VIXDISKLIB_DISK_SPLIT_SPARSE = 3,      /* grows; files of 2 GiB */
   VIXDISKLIB_DISK_SPLIT_FLAT = 4,        /* whole size; files of 2 GiB */
   VIXDISKLIB_DISK_VMFS_FLAT = 5,         /* whole size, for ESXi */
   VIXDISKLIB_DISK_STREAM_OPTIMIZED = 6,  /* compressed, written once */
   VIXDISKLIB_DISK_VMFS_THIN = 7,         /* whole size with holes, for ESXi */
   VIXDISKLIB_DISK_VMFS_SPARSE = 8,       /* a child on VMFS */
   VIXDISKLIB_DISK_UNKNOWN = 256
} VixDiskLibDiskType;

typedef enum {
   VIXDISKLIB_ADAPTER_IDE = 1,
   VIXDISKLIB_ADAPTER_SCSI_BUSLOGIC = 2,
   VIXDISKLIB_ADAPTER_SCSI_LSILOGIC = 3,
   VIXDISKLIB_ADAPTER_UNKNOWN = 256
} VixDiskLibAdapterType;

/* Virtual hardware versions. */
#define VIXDISKLIB_HWVERSION_WORKSTATION_4 3
#define VIXDISKLIB_HWVERSION_WORKSTATION_5 4
#define VIXDISKLIB_HWVERSION_ESX30 VIXDISKLIB_HWVERSION_WORKSTATION_5
#define VIXDISKLIB_HWVERSION_WORKSTATION_6 6
#define VIXDISKLIB_HWVERSION_ESX4X 7
#define VIXDISKLIB_HWVERSION_ESX50 8
#define VIXDISKLIB_HWVERSION_ESX51 9
#define VIXDISKLIB_HWVERSION_ESX55 10
#define VIXDISKLIB_HWVERSION_ESX60 11
#define VIXDISKLIB_HWVERSION_ESX65 13
#define VIXDISKLIB_HWVERSION_CURRENT VIXDISKLIB_HWVERSION_ESX65

/* Which member of VixDiskLibConnectParams.creds is meant. */
typedef enum {
   VIXDISKLIB_CRED_UID = 1,
   VIXDISKLIB_CRED_SESSIONID = 2,
   VIXDISKLIB_CRED_TICKETID = 3,
   VIXDISKLIB_CRED_SSPI = 4,
   VIXDISKLIB_CRED_UNKNOWN = 256
} VixDiskLibCredType;

/* Which member of VixDiskLibConnectParams.spec is meant; a virtual machine has none. */
typedef enum {
   VIXDISKLIB_SPEC_VMX = 0,
   VIXDISKLIB_SPEC_VSTORAGE_OBJECT = 1,
   VIXDISKLIB_SPEC_DATASTORE = 2,
   VIXDISKLIB_SPEC_UNKNOWN = 256
} VixDiskLibSpecType;

/* Flags of VixDiskLib_Open. At most one kind of compression. */
#define VIXDISKLIB_FLAG_OPEN_UNBUFFERED (1 << 0)  /* buffers begin at multiples of a sector */
#define VIXDISKLIB_FLAG_OPEN_SINGLE_LINK (1 << 1) /* without its parents */
#define VIXDISKLIB_FLAG_OPEN_READ_ONLY (1 << 2)
#define VIXDISKLIB_FLAG_OPEN_COMPRESSION_ZLIB (1 << 4)
#define VIXDISKLIB_FLAG_OPEN_COMPRESSION_FASTLZ (1 << 5)
#define VIXDISKLIB_FLAG_OPEN_COMPRESSION_SKIPZ (1 << 6)
#define VIXDISKLIB_FLAG_OPEN_COMPRESSION_MASK 0x3f0

/* ---- Types ------------------------------------------------------------------------------- */

typedef uint64 VixDiskLibSectorType;

/* Handles. What they point to is the library's; a stale one is an error and nothing worse. */
typedef struct VixDiskLibHandleStruct *VixDiskLibHandle;
typedef struct VixDiskLibConnectionStruct *VixDiskLibConnection;

struct VixDiskLibTicketIdCreds;
struct VixDiskLibConnectParamsState;

typedef struct {
   char *userName;
   char *password;
} VixDiskLibUidPasswdCreds;

typedef struct {
   char *cookie;
   char *userName;
   char *key;
} VixDiskLibSessionIdCreds;

typedef union {
   VixDiskLibUidPasswdCreds uid;
   VixDiskLibSessionIdCreds sessionId;
   struct VixDiskLibTicketIdCreds *ticketId;
} VixDiskLibCreds;

typedef struct {
   char *id;
   char *datastoreMoRef;
   char *ssId;
} VixDiskLibVStorageObjectSpec;

typedef struct {
   char *datastoreMoRef;
   char *diskFolder;
} VixDiskLibDatastoreSpec;

/*
 * Where to connect to, and as whom. Made by VixDiskLib_AllocateConnectParams. One that a program
 * declares itself works as it did before 6.7: a warning is given, nothing after nfcHostPort is
 * read, and the features of 6.7 are not there.
 */
typedef struct {
   char *vmxSpec;    /* the virtual machine, "moref=..." */
   char *serverName; /* NULL: disks of this machine */
   char *thumbPrint; /* of the server's certificate */
   long privateUse;
   VixDiskLibCredType credType;
   VixDiskLibCreds creds;
   uint32 port;        /* 0: 443 */
   uint32 nfcHostPort; /* 0: 902 */
   char *vimApiVer;    /* not used */
   char reserved[8];
   struct VixDiskLibConnectParamsState *state;
   union {
      VixDiskLibVStorageObjectSpec vStorageObjSpec;
      VixDiskLibDatastoreSpec dsSpec;
   } spec;
   VixDiskLibSpecType specType;
} VixDiskLibConnectParams;

typedef struct {
   uint32 cylinders;
   uint32 heads;
   uint32 sectors;
} VixDiskLibGeometry;

typedef struct {
   VixDiskLibDiskType diskType;
   VixDiskLibAdapterType adapterType;
   uint16 hwVersion;
   VixDiskLibSectorType capacity;
   uint32 logicalSectorSize;  /* read if Init asked for version 7 or newer; 0: 512 */
   uint32 physicalSectorSize; /* the same */
} VixDiskLibCreateParams;

typedef struct {
   VixDiskLibGeometry biosGeo;
   VixDiskLibGeometry physGeo;
   VixDiskLibSectorType capacity;
   VixDiskLibAdapterType adapterType;
   int numLinks;             /* files of the chain that were opened, the base included */
   char *parentFileNameHint; /* NULL: has no parent */
   char *uuid;
   uint32 logicalSectorSize;
   uint32 physicalSectorSize;
} VixDiskLibInfo;

/* A run of allocated sectors. */
typedef struct {
   VixDiskLibSectorType offset;
   VixDiskLibSectorType length;
} VixDiskLibBlock;

typedef struct {
   uint32 numBlocks;
   VixDiskLibBlock blocks[1]; /* numBlocks of them, ascending */
} VixDiskLibBlockList;

/* A message: one printf format with its arguments. Called from any thread. */
typedef void(VixDiskLibGenericLogFunc)(const char *fmt, va_list args);

/* 0 to 100, never falling, in the calling thread. What it returns does not count. */
typedef Bool (*VixDiskLibProgressFunc)(void *progressData, int percentCompleted);

/* Called once for each call that returned VIX_ASYNC, perhaps before that call has returned. */
typedef void (*VixDiskLibCompletionCB)(void *cbData, VixError result);

/* ---- Life of the library ----------------------------------------------------------------- */

/* Each of the three functions may be NULL; so may libDir, which is not needed. */
VixError VixDiskLib_Init(uint32 majorVersion, uint32 minorVersion, VixDiskLibGenericLogFunc *log,
                         VixDiskLibGenericLogFunc *warn, VixDiskLibGenericLogFunc *panic,
                         const char *libDir);

/* configFile: lines of name=value; NULL: none. */
VixError VixDiskLib_InitEx(uint32 majorVersion, uint32 minorVersion,
                           VixDiskLibGenericLogFunc *log, VixDiskLibGenericLogFunc *warn,
                           VixDiskLibGenericLogFunc *panic, const char *libDir,
                           const char *configFile);

/* Closes what is open. Harmless at any time. */
void VixDiskLib_Exit(void);

/* Names separated by colons; belongs to the library. */
const char *VixDiskLib_ListTransportModes(void);

/* ---- Connections ------------------------------------------------------------------------- */

/* NULL, or parameters without a server, are this machine. Everything is copied. */
VixError VixDiskLib_Connect(const VixDiskLibConnectParams *connectParams,
                            VixDiskLibConnection *connection);

/* readOnly: all disks of the connection are. snapshotRef and transportModes may be NULL. */
VixError VixDiskLib_ConnectEx(const VixDiskLibConnectParams *connectParams, Bool readOnly,
                              const char *snapshotRef, const char *transportModes,
                              VixDiskLibConnection *connection);

/* Closes the disks that are still open on it. */
VixError VixDiskLib_Disconnect(VixDiskLibConnection connection);

VixError VixDiskLib_PrepareForAccess(const VixDiskLibConnectParams *connectParams,
                                     const char *identity);
VixError VixDiskLib_EndAccess(const VixDiskLibConnectParams *connectParams, const char *identity);

/* Both counters may be NULL. */
VixError VixDiskLib_Cleanup(const VixDiskLibConnectParams *connectParams, uint32 *numCleanedUp,
                            uint32 *numRemaining);

/* Zeroed; NULL only without memory. Works before Init. */
VixDiskLibConnectParams *VixDiskLib_AllocateConnectParams(void);

/* A copy of a connection's own, with its texts. */
VixError VixDiskLib_GetConnectParams(const VixDiskLibConnection connection,
                                     VixDiskLibConnectParams **connectParams);

/*
 * Frees what one of the two functions above gave. The texts that a program put into the first
 * stay the program's. A pointer that came from nowhere here, and NULL, are left alone.
 */
void VixDiskLib_FreeConnectParams(VixDiskLibConnectParams *connectParams);

/* ---- Disks ------------------------------------------------------------------------------- */

VixError VixDiskLib_Create(const VixDiskLibConnection connection, const char *path,
                           const VixDiskLibCreateParams *createParams,
                           VixDiskLibProgressFunc progressFunc, void *progressCallbackData);

/* A child of an open disk, which is read-only from then on. */
VixError VixDiskLib_CreateChild(VixDiskLibHandle diskHandle, const char *childPath,
                                VixDiskLibDiskType diskType, VixDiskLibProgressFunc progressFunc,
                                void *progressCallbackData);

/* *diskHandle is NULL after a failure. */
VixError VixDiskLib_Open(const VixDiskLibConnection connection, const char *path, uint32 flags,
                         VixDiskLibHandle *diskHandle);

/* Makes durable what was written. The handle is gone even after a failure. */
VixError VixDiskLib_Close(VixDiskLibHandle diskHandle);

VixError VixDiskLib_GetInfo(VixDiskLibHandle diskHandle, VixDiskLibInfo **info);
void VixDiskLib_FreeInfo(VixDiskLibInfo *info);

/* Belongs to the library; NULL for a wrong handle. */
const char *VixDiskLib_GetTransportMode(VixDiskLibHandle diskHandle);

/* Removes one link with all its files. */
VixError VixDiskLib_Unlink(VixDiskLibConnection connection, const char *path);

/* Renames a disk with all its files. */
VixError VixDiskLib_Rename(const char *srcFileName, const char *dstFileName);

/* ---- Data -------------------------------------------------------------------------------- */

VixError VixDiskLib_Read(VixDiskLibHandle diskHandle, VixDiskLibSectorType startSector,
                         VixDiskLibSectorType numSectors, uint8 *readBuffer);
VixError VixDiskLib_Write(VixDiskLibHandle diskHandle, VixDiskLibSectorType startSector,
                          VixDiskLibSectorType numSectors, const uint8 *writeBuffer);

/* VIX_ASYNC, and the callback is called once; any other code, and it is never called. */
VixError VixDiskLib_ReadAsync(VixDiskLibHandle diskHandle, VixDiskLibSectorType startSector,
                              VixDiskLibSectorType numSectors, uint8 *readBuffer,
                              VixDiskLibCompletionCB callback, void *cbData);
VixError VixDiskLib_WriteAsync(VixDiskLibHandle diskHandle, VixDiskLibSectorType startSector,
                               VixDiskLibSectorType numSectors, const uint8 *writeBuffer,
                               VixDiskLibCompletionCB callback, void *cbData);

/* What was written would survive a power cut when it returns. */
VixError VixDiskLib_Flush(VixDiskLibHandle diskHandle);

/* All callbacks of the handle have returned when it does. */
VixError VixDiskLib_Wait(VixDiskLibHandle diskHandle);

/*
 * The allocated chunks of a range, neighbours merged. startSector and numSectors are multiples of
 * chunkSize. The range may pass the end of the disk by less than a chunk; the answer never does.
 */
VixError VixDiskLib_QueryAllocatedBlocks(VixDiskLibHandle diskHandle,
                                         VixDiskLibSectorType startSector,
                                         VixDiskLibSectorType numSectors,
                                         VixDiskLibSectorType chunkSize,
                                         VixDiskLibBlockList **blockList);
VixError VixDiskLib_FreeBlockList(VixDiskLibBlockList *blockList);

/* ---- Metadata ---------------------------------------------------------------------------- */

/*
 * requiredLen may be NULL; else it gets the bytes that the answer takes with its NULs, also when
 * the buffer is NULL or too small (VIX_E_BUFFER_TOOSMALL).
 */
VixError VixDiskLib_ReadMetadata(VixDiskLibHandle diskHandle, const char *key, char *buf,
                                 size_t bufLen, size_t *requiredLen);
VixError VixDiskLib_WriteMetadata(VixDiskLibHandle diskHandle, const char *key, const char *val);

/* Each key ends with a NUL; one more NUL ends the list. */
VixError VixDiskLib_GetMetadataKeys(VixDiskLibHandle diskHandle, char *keys, size_t maxLen,
                                    size_t *requiredLen);

/* ---- Maintenance ------------------------------------------------------------------------- */

/* capacity is the new one, in sectors. */
VixError VixDiskLib_Grow(VixDiskLibConnection connection, const char *path,
                         VixDiskLibSectorType capacity, Bool updateGeometry,
                         VixDiskLibProgressFunc progressFunc, void *progressCallbackData);
VixError VixDiskLib_Shrink(VixDiskLibHandle diskHandle, VixDiskLibProgressFunc progressFunc,
                           void *progressCallbackData);
VixError VixDiskLib_Defragment(VixDiskLibHandle diskHandle, VixDiskLibProgressFunc progressFunc,
                               void *progressCallbackData);

/* Copies a disk with its parents into one. vixCreateParams may be NULL: the source's kind. */
VixError VixDiskLib_Clone(const VixDiskLibConnection dstConnection, const char *dstPath,
                          const VixDiskLibConnection srcConnection, const char *srcPath,
                          const VixDiskLibCreateParams *vixCreateParams,
                          VixDiskLibProgressFunc progressFunc, void *progressCallbackData,
                          Bool overWrite);

/* Bytes. VIXDISKLIB_DISK_UNKNOWN: the disk's own kind. */
VixError VixDiskLib_SpaceNeededForClone(VixDiskLibHandle diskHandle,
                                        VixDiskLibDiskType cloneDiskType, uint64 *spaceNeeded);

/* VIX_OK: it is consistent, now. */
VixError VixDiskLib_CheckRepair(const VixDiskLibConnection connection, const char *filename,
                                Bool repair);

VixError VixDiskLib_IsAttachPossible(VixDiskLibHandle parent, VixDiskLibHandle child);

/* The child's handle reads both; the parent's may only be closed then. */
VixError VixDiskLib_Attach(VixDiskLibHandle parent, VixDiskLibHandle child);

/* ---- Errors ------------------------------------------------------------------------------ */

/* Never NULL; locale is not used. Works before Init. */
char *VixDiskLib_GetErrorText(VixError err, const char *locale);
void VixDiskLib_FreeErrorText(char *errMsg);

#ifdef __cplusplus
}
#endif

#endif
