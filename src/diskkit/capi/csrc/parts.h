/* SPDX-License-Identifier: Apache-2.0 */
/* What the files with the functions of VixDiskLib share. */

#ifndef DISKKIT_PARTS_H
#define DISKKIT_PARTS_H

#include "python.h"

/* The version that the client asked for: from 7 on its structs for new disks are longer. */
extern volatile uint32 asked_major;

/* The answer that is a handle. */
VixError end_handle(Call *call, void **handle);
/* A call that is about one disk and nothing else. */
VixError about_disk(CallName name, VixDiskLibHandle diskHandle);

#endif
