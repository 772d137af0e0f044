/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of vixdisk share. */

#ifndef VIXDISK_H
#define VIXDISK_H

#include <stddef.h>
#include <stdint.h>

#include "vixDiskLib.h"

#define SECTOR VIXDISKLIB_SECTOR_SIZE
#define READ_ONLY VIXDISKLIB_FLAG_OPEN_READ_ONLY

/* What the user asked for. */
typedef struct {
   const char *path; /* of the disk */
   const char *first, *second; /* arguments of the command */
   const char *adapter, *compress;
   const char *libdir, *config, *mode, *snapshot;
   const char *host, *user, *password, *cookie, *thumb, *vm, *vimapi;
   const char *fcd, *fcd_datastore, *fcd_session;
   uint64 start, count, value, megabytes, chunk, port, nfc_port;
   int single; /* without the parents */
} Settings;

extern Settings set;

/* What a command needs: its disk opened for reading or writing, or only a connection. */
enum { READS, WRITES, ALONE };

typedef struct {
   const char *name;
   int arguments;
   int needs;
   VixError (*run)(VixDiskLibHandle disk);
   const char *help;
} Command;

extern const Command commands[]; /* the last one has no name */
extern const Command *command;   /* the one that was given */
extern VixDiskLibConnection connection;

/* arguments.c: returns 0 after telling what is wrong. */
int parse(int argc, char **argv);
int usage(const char *problem, const char *what);
/* Digits, or 0x and digits, and nothing else; returns -1 if it is not that. */
int parse_number(const char *text, uint64 *number);

/* vixdisk.c */
VixError told(VixError code, const char *what, const char *path);
void *need(size_t size);
VixError open_disk(const char *path, uint32 flags, VixDiskLibHandle *disk);
VixError close_disk(VixDiskLibHandle disk, const char *path, VixError code);
VixError capacity_of(VixDiskLibHandle disk, const char *path, uint64 *sectors);
VixDiskLibCreateParams new_disk(uint64 sectors);

/* bench.c: commands that move much data */
VixError do_bench(VixDiskLibHandle disk);
VixError do_multithread(VixDiskLibHandle none);

#endif
