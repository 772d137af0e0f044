/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The functions of VixDiskLib: the library's life, errors, connections. Each, here and in disks.c,
 * data.c and upkeep.c, hands its arguments to the function of diskkit/capi/calls.py that does the
 * work, and gives the client what that answers, in memory of this library.
 */

#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "later.h"
#include "params.h"
#include "parts.h"
#include "texts.h"

volatile uint32 asked_major;

VixError end_handle(Call *call, void **handle)
{
   uint64_t number = 0;
   VixError code = call_end_into(call, &number, sizeof number);
   *handle = code == VIX_OK ? (void *)(uintptr_t)number : NULL;
   return code;
}

VixError about_disk(CallName name, VixDiskLibHandle diskHandle)
{
   Call call;
   VixError code = call_begin(&call, name);
   if (code != VIX_OK) {
      return code;
   }
   call_handle(&call, diskHandle);
   return call_end(&call);
}

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
      return "file";
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
