/* SPDX-License-Identifier: Apache-2.0 */
/* The names that the interface gives to C's own integer types. */

#ifndef DISKKIT_VM_BASIC_TYPES_H
#define DISKKIT_VM_BASIC_TYPES_H

#include <stddef.h>
#include <stdint.h>

typedef uint8_t uint8;
typedef uint16_t uint16;
typedef uint32_t uint32;
typedef uint64_t uint64;
typedef int8_t int8;
typedef int16_t int16;
typedef int32_t int32;
typedef int64_t int64;

/* One byte: TRUE or FALSE. */
typedef char Bool;

#ifndef TRUE
#define TRUE 1
#endif
#ifndef FALSE
#define FALSE 0
#endif

#endif
