/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program may pass parameters that it got here, or ones that it declared itself, as all programs
 * did before 6.7. The latter may be 72, 80 or 128 bytes large, with anything behind the fields of
 * their time, so nothing after nfcHostPort is read of a pointer that was not given out here.
 */

#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "params.h"

_Static_assert(sizeof(VixDiskLibConnectParams) == 128, "the layout of 6.7");
_Static_assert(offsetof(VixDiskLibConnectParams, port) == 64, "the layout since 5.1");
_Static_assert(offsetof(VixDiskLibConnectParams, spec) == 96, "the layout of 6.7");

/* What was given out, and not yet freed. */
typedef struct Given {
   VixDiskLibConnectParams params;
   struct Given *next;
   char *texts; /* ours, of a copy; else NULL */
} Given;

static Given *given;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void child_begins(void)
{
   pthread_mutex_init(&lock, NULL);
}

__attribute__((constructor)) static void watch_forks(void)
{
   pthread_atfork(NULL, NULL, child_begins);
}

static VixDiskLibConnectParams *give(char *texts)
{
   Given *made = calloc(1, sizeof *made);
   if (made == NULL) {
      return NULL;
   }
   made->texts = texts;
   pthread_mutex_lock(&lock);
   made->next = given;
   given = made;
   pthread_mutex_unlock(&lock);
   return &made->params;
}

static int is_given(const VixDiskLibConnectParams *params)
{
   pthread_mutex_lock(&lock);
   const Given *one = given;
   while (one != NULL && &one->params != params) {
      one = one->next;
   }
   pthread_mutex_unlock(&lock);
   return one != NULL;
}

VixDiskLibConnectParams *VixDiskLib_AllocateConnectParams(void)
{
   return give(NULL);
}

void VixDiskLib_FreeConnectParams(VixDiskLibConnectParams *params)
{
   pthread_mutex_lock(&lock);
   Given **at = &given;
   while (*at != NULL && &(*at)->params != params) {
      at = &(*at)->next;
   }
   Given *found = *at;
   if (found != NULL) {
      *at = found->next;
   }
   pthread_mutex_unlock(&lock);
   if (found != NULL) {
      free(found->texts);
      free(found);
   }
}

enum { NO_PARAMS, DECLARED, ALLOCATED };

void call_params(Call *call, const VixDiskLibConnectParams *params)
{
   const char *user = NULL, *password = NULL, *cookie = NULL, *key = NULL;
   const char *id = NULL, *datastore = NULL, *ss = NULL, *folder = NULL;
   int whose = params == NULL ? NO_PARAMS : is_given(params) ? ALLOCATED : DECLARED;
   /* Without a server nothing else has a meaning, and perhaps no value. */
   int far = params != NULL && (whose == ALLOCATED || params->serverName != NULL);
   int spec = VIXDISKLIB_SPEC_VMX;
   if (far && params->credType == VIXDISKLIB_CRED_UID) {
      user = params->creds.uid.userName;
      password = params->creds.uid.password;
   } else if (far && params->credType == VIXDISKLIB_CRED_SESSIONID) {
      cookie = params->creds.sessionId.cookie;
      user = params->creds.sessionId.userName;
      key = params->creds.sessionId.key;
   }
   if (whose == ALLOCATED) {
      spec = params->specType;
      if (spec == VIXDISKLIB_SPEC_VSTORAGE_OBJECT) {
         id = params->spec.vStorageObjSpec.id;
         datastore = params->spec.vStorageObjSpec.datastoreMoRef;
         ss = params->spec.vStorageObjSpec.ssId;
      } else if (spec == VIXDISKLIB_SPEC_DATASTORE) {
         datastore = params->spec.dsSpec.datastoreMoRef;
         folder = params->spec.dsSpec.diskFolder;
      }
   }
   call_number(call, (uint64_t)whose);
   call_text(call, far ? params->vmxSpec : NULL);
   call_text(call, far ? params->serverName : NULL);
   call_text(call, far ? params->thumbPrint : NULL);
   call_number(call, far ? (uint32)params->credType : 0);
   call_text(call, user);
   call_text(call, password);
   call_text(call, cookie);
   call_text(call, key);
   call_number(call, far ? params->port : 0);
   call_number(call, far ? params->nfcHostPort : 0);
   call_number(call, (uint32)spec);
   call_text(call, id);
   call_text(call, datastore);
   call_text(call, ss != NULL ? ss : folder);
}

/* The next text of an answer: a length, or all ones for NULL, the bytes, a NUL. */
static int next_text(char **at, const char *end, char **to)
{
   uint32 length;
   *to = NULL;
   if ((size_t)(end - *at) < sizeof length) {
      return -1;
   }
   memcpy(&length, *at, sizeof length);
   *at += sizeof length;
   if (length == UINT32_MAX) {
      return 0;
   }
   if ((size_t)(end - *at) <= length) {
      return -1;
   }
   *to = *at;
   *at += length + 1;
   return 0;
}

VixDiskLibConnectParams *params_from(char *answer, size_t size)
{
   uint32 numbers[4];
   char *texts[10], *at = answer + sizeof numbers, *end = answer + size;
   int wrong = size < sizeof numbers;
   memset(texts, 0, sizeof texts);
   for (size_t i = 0; i < 10 && !wrong; i++) {
      wrong = next_text(&at, end, &texts[i]) != 0;
   }
   VixDiskLibConnectParams *made = wrong ? NULL : give(answer);
   if (made == NULL) {
      free(answer);
      return NULL;
   }
   memcpy(numbers, answer, sizeof numbers);
   made->credType = (VixDiskLibCredType)numbers[0];
   made->specType = (VixDiskLibSpecType)numbers[1];
   made->port = numbers[2];
   made->nfcHostPort = numbers[3];
   made->vmxSpec = texts[0];
   made->serverName = texts[1];
   made->thumbPrint = texts[2];
   if (made->credType == VIXDISKLIB_CRED_SESSIONID) {
      made->creds.sessionId.cookie = texts[5];
      made->creds.sessionId.userName = texts[3];
      made->creds.sessionId.key = texts[6];
   } else {
      made->creds.uid.userName = texts[3];
      made->creds.uid.password = texts[4];
   }
   if (made->specType == VIXDISKLIB_SPEC_VSTORAGE_OBJECT) {
      made->spec.vStorageObjSpec.id = texts[7];
      made->spec.vStorageObjSpec.datastoreMoRef = texts[8];
      made->spec.vStorageObjSpec.ssId = texts[9];
   } else if (made->specType == VIXDISKLIB_SPEC_DATASTORE) {
      made->spec.dsSpec.datastoreMoRef = texts[8];
      made->spec.dsSpec.diskFolder = texts[9];
   }
   return made;
}
