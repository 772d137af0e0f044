/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Structs of all sizes that clients are compiled with, with memory behind them that must not be
 * touched, and who frees what. Run with an allocator that checks, this finds what is freed twice.
 */

#include "check.h"

#include <stddef.h>
#include <sys/mman.h>

static char *before_guard; /* what follows is not mapped */

/* The last `size` bytes before memory that ends the program when touched. */
static void *at_guard(size_t size)
{
   return before_guard - size;
}

static void make_guard(void)
{
   size_t page = (size_t)sysconf(_SC_PAGESIZE);
   char *pages = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
   SO(pages != MAP_FAILED && mprotect(pages + page, page, PROT_NONE) == 0);
   before_guard = pages + page;
}

/* Parameters as a program of some age has them: `size` bytes, poison where it may be. */
static VixDiskLibConnectParams *old_params(size_t size, char *server)
{
   VixDiskLibConnectParams *params = at_guard(size);
   memset(params, 0xAA, size);
   params->vmxSpec = NULL;
   params->serverName = server;
   params->thumbPrint = NULL;
   params->credType = 0;
   params->port = 0;
   if (size >= offsetof(VixDiskLibConnectParams, nfcHostPort) + 4) {
      params->nfcHostPort = 0;
   }
   return params;
}

/* Every call that takes parameters. */
static void every_call(const VixDiskLibConnectParams *params, VixError code)
{
   VixDiskLibConnection connection = NULL;
   uint32 counts[2];
   IS(code, VixDiskLib_Connect(params, &connection));
   if (connection != NULL) {
      OK(VixDiskLib_Disconnect(connection));
   }
   IS(code, VixDiskLib_ConnectEx(params, TRUE, NULL, NULL, &connection));
   if (connection != NULL) {
      VixDiskLibConnectParams *copy = NULL;
      OK(VixDiskLib_GetConnectParams(connection, &copy));
      VixDiskLib_FreeConnectParams(copy);
      OK(VixDiskLib_Disconnect(connection));
   }
   IS(code, VixDiskLib_PrepareForAccess(params, "me"));
   IS(code, VixDiskLib_EndAccess(params, "me"));
   IS(code, VixDiskLib_Cleanup(params, &counts[0], &counts[1]));
}

static void sizes(void)
{
   static const size_t all[] = {72, 80, 128};
   char server[] = "h.example", user[] = "u", word[] = "p";
   for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
      VixDiskLibConnectParams *params = old_params(all[i], NULL);
      params->creds.uid.userName = (char *)0xAAAAAAAAAAAAAAAA; /* no kind of login: not read */
      every_call(params, VIX_OK);
      VixDiskLib_FreeConnectParams(params); /* not the library's: left alone */
      every_call(params, VIX_OK);

      params = old_params(all[i], server);
      params->credType = VIXDISKLIB_CRED_UID;
      params->creds.uid.userName = user;
      params->creds.uid.password = word;
      every_call(params, VIX_E_NOT_SUPPORTED);
      params->credType = VIXDISKLIB_CRED_SESSIONID;
      params->creds.sessionId.cookie = word;
      params->creds.sessionId.userName = user;
      params->creds.sessionId.key = word;
      every_call(params, VIX_E_NOT_SUPPORTED);
      params->credType = VIXDISKLIB_CRED_TICKETID; /* its struct is not known, and not read */
      params->creds.ticketId = (void *)0xAAAAAAAAAAAAAAAA;
      every_call(params, VIX_E_NOT_SUPPORTED);
   }
   /* Local in the way of programs that leave rubbish everywhere else. */
   VixDiskLibConnectParams *params = at_guard(72);
   memset(params, 0xAA, 72);
   params->serverName = NULL;
   every_call(params, VIX_OK);
}

static void create_params(VixDiskLibConnection here)
{
   /* Before version 7 there are 24 bytes, and what follows does not count. */
   VixDiskLibCreateParams *params = at_guard(24);
   params->diskType = VIXDISKLIB_DISK_MONOLITHIC_SPARSE;
   params->adapterType = VIXDISKLIB_ADAPTER_IDE;
   params->hwVersion = 4;
   params->capacity = 128;
   OK(VixDiskLib_Create(here, "small.vmdk", params, NULL, NULL));
   OK(VixDiskLib_Clone(here, "clone.vmdk", here, "small.vmdk", params, NULL, NULL, FALSE));
}

static void longer_create_params(void)
{
   VixDiskLibConnection here;
   VixDiskLibCreateParams params = {VIXDISKLIB_DISK_MONOLITHIC_SPARSE, VIXDISKLIB_ADAPTER_IDE, 4,
                                    128, 4096, 4096};
   OK(init()); /* version 7 */
   OK(VixDiskLib_Connect(NULL, &here));
   IS(VIX_E_NOT_SUPPORTED, VixDiskLib_Create(here, "4k.vmdk", &params, NULL, NULL));
   params.logicalSectorSize = 0xAAAAAAAA; /* never set: taken for 512 */
   params.physicalSectorSize = 0xAAAAAAAA;
   OK(VixDiskLib_Create(here, "unset.vmdk", &params, NULL, NULL));
   VixDiskLib_Exit();
}

static char *copy_of(const char *text)
{
   return strcpy(malloc(strlen(text) + 1), text);
}

/* Texts are the program's: freed before, freed right after connecting, or never freed. */
static void allocated_params(VixDiskLibConnection *connection)
{
   static char fixed[] = "moref=7";
   VixDiskLibConnectParams *params = VixDiskLib_AllocateConnectParams();
   params->vmxSpec = copy_of("moref=vm-16");
   params->thumbPrint = copy_of("AA:BB");
   params->credType = VIXDISKLIB_CRED_UID;
   params->creds.uid.userName = copy_of("somebody");
   params->creds.uid.password = copy_of("secret");
   params->port = 444;
   params->nfcHostPort = 903;
   OK(VixDiskLib_ConnectEx(params, TRUE, "", NULL, connection));
   free(params->vmxSpec);
   free(params->thumbPrint);
   free(params->creds.uid.userName);
   free(params->creds.uid.password);
   VixDiskLib_FreeConnectParams(params); /* its texts dangle by now */
   VixDiskLib_FreeConnectParams(params); /* twice is harmless */
   params = VixDiskLib_AllocateConnectParams();
   params->vmxSpec = fixed;
   VixDiskLib_FreeConnectParams(params);
   SO(strcmp(fixed, "moref=7") == 0);
}

static void copied_params(VixDiskLibConnection connection)
{
   VixDiskLibConnectParams *copy = NULL, *second = NULL;
   IS(VIX_E_INVALID_ARG, VixDiskLib_GetConnectParams(connection, NULL));
   OK(VixDiskLib_GetConnectParams(connection, &copy));
   OK(VixDiskLib_GetConnectParams(connection, &second));
   SO(copy != second && copy->vmxSpec != second->vmxSpec);
   SO(strcmp(copy->vmxSpec, "moref=vm-16") == 0 && strcmp(copy->thumbPrint, "AA:BB") == 0);
   SO(copy->credType == VIXDISKLIB_CRED_UID && copy->serverName == NULL);
   SO(strcmp(copy->creds.uid.userName, "somebody") == 0);
   SO(strcmp(copy->creds.uid.password, "secret") == 0);
   SO(copy->port == 444 && copy->nfcHostPort == 903 && copy->specType == VIXDISKLIB_SPEC_VMX);
   VixDiskLib_FreeConnectParams(copy);
   SO(strcmp(second->vmxSpec, "moref=vm-16") == 0); /* a copy of its own */
   OK(VixDiskLib_Disconnect(connection));
   SO(strcmp(second->creds.uid.password, "secret") == 0); /* outlives its connection */
   VixDiskLib_FreeConnectParams(second);
}

static void session_params(void)
{
   VixDiskLibConnection connection = NULL;
   VixDiskLibConnectParams *params = VixDiskLib_AllocateConnectParams(), *copy = NULL;
   params->credType = VIXDISKLIB_CRED_SESSIONID;
   params->creds.sessionId.cookie = "cookie";
   params->creds.sessionId.userName = "somebody";
   params->creds.sessionId.key = "key";
   OK(VixDiskLib_Connect(params, &connection));
   OK(VixDiskLib_GetConnectParams(connection, &copy));
   SO(copy->credType == VIXDISKLIB_CRED_SESSIONID);
   SO(strcmp(copy->creds.sessionId.cookie, "cookie") == 0);
   SO(strcmp(copy->creds.sessionId.userName, "somebody") == 0);
   SO(strcmp(copy->creds.sessionId.key, "key") == 0);
   VixDiskLib_FreeConnectParams(copy);
   params->specType = VIXDISKLIB_SPEC_VSTORAGE_OBJECT;
   params->spec.vStorageObjSpec.id = "id";
   IS(VIX_E_NOT_SUPPORTED, VixDiskLib_Connect(params, &connection));
   params->specType = VIXDISKLIB_SPEC_DATASTORE;
   IS(VIX_E_NOT_SUPPORTED, VixDiskLib_Connect(params, &connection));
   VixDiskLib_FreeConnectParams(params);
}

int main(void)
{
   VixDiskLibConnection connection = NULL;
   make_guard();
   OK(VixDiskLib_InitEx(6, 7, take_line, take_warning, NULL, NULL, NULL));
   VixDiskLibConnectParams stack;
   memset(&stack, 0xAA, sizeof stack);
   VixDiskLib_FreeConnectParams(&stack);
   allocated_params(&connection);
   copied_params(connection);
   session_params();
   unsigned before = warnings_seen;
   OK(VixDiskLib_Connect(NULL, &connection));
   create_params(connection);
   SO(warnings_seen == before);
   sizes();
   VixDiskLib_Exit();
   longer_create_params();
   return finish();
}
