/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program that loads the library as nbdkit does, by dlopen with RTLD_LOCAL, and is not linked to
 * it. usage: host LIBRARY WHAT
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <locale.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "vixDiskLib.h"

#define FUNCTIONS(X)                                                                              \
   X(AllocateConnectParams) X(Close) X(Connect) X(Create) X(Exit) X(Flush) X(FreeBlockList)       \
   X(FreeConnectParams) X(FreeErrorText) X(GetErrorText) X(InitEx) X(Open)                        \
   X(QueryAllocatedBlocks) X(Read) X(ReadAsync) X(Unlink) X(Wait) X(Write)
#define POINTER(name) static __typeof__(&VixDiskLib_##name) our_##name;
FUNCTIONS(POINTER)
#define VixDiskLib_AllocateConnectParams our_AllocateConnectParams
#define VixDiskLib_Close our_Close
#define VixDiskLib_Connect our_Connect
#define VixDiskLib_Create our_Create
#define VixDiskLib_Exit our_Exit
#define VixDiskLib_Flush our_Flush
#define VixDiskLib_FreeBlockList our_FreeBlockList
#define VixDiskLib_FreeConnectParams our_FreeConnectParams
#define VixDiskLib_FreeErrorText our_FreeErrorText
#define VixDiskLib_GetErrorText our_GetErrorText
#define VixDiskLib_InitEx our_InitEx
#define VixDiskLib_Open our_Open
#define VixDiskLib_QueryAllocatedBlocks our_QueryAllocatedBlocks
#define VixDiskLib_Read our_Read
#define VixDiskLib_ReadAsync our_ReadAsync
#define VixDiskLib_Unlink our_Unlink
#define VixDiskLib_Wait our_Wait
#define VixDiskLib_Write our_Write

#include "check.h"

#define SECTORS 2048

static const char *library_path;
static void *library;
static VixDiskLibConnection here;
static VixDiskLibHandle disk;
static volatile int stop;

static void load(void)
{
   library = dlopen(library_path, RTLD_NOW | RTLD_LOCAL);
   if (library == NULL) {
      printf("dlopen: %s\n", dlerror());
      exit(2);
   }
#define FIND(name) our_##name = (__typeof__(our_##name))dlsym(library, "VixDiskLib_" #name);
   FUNCTIONS(FIND)
}

static void begin(void)
{
   OK(init());
   OK(VixDiskLib_Connect(NULL, &here));
   if (access("d.vmdk", F_OK) != 0) {
      OK(make(here, "d.vmdk", VIXDISKLIB_DISK_MONOLITHIC_SPARSE, SECTORS));
   }
   OK(VixDiskLib_Open(here, "d.vmdk", 0, &disk));
}

/* A whole life: each step must do its work, not only say so. */
static void use(int value)
{
   uint8 sector[SECTOR];
   VixDiskLibBlockList *list = NULL;
   begin();
   memset(sector, value, sizeof sector);
   OK(VixDiskLib_Write(disk, 200, 1, sector));
   memset(sector, 0, sizeof sector);
   OK(VixDiskLib_Read(disk, 200, 1, sector));
   SO(sector[0] == value && sector[SECTOR - 1] == value);
   OK(VixDiskLib_QueryAllocatedBlocks(disk, 0, SECTORS, 128, &list));
   SO(list != NULL && list->numBlocks == 1 && list->blocks[0].offset == 128);
   OK(VixDiskLib_FreeBlockList(list));
   OK(VixDiskLib_Flush(disk));
   OK(VixDiskLib_Close(disk));
   VixDiskLib_Exit();
}

static long resident_kib(void)
{
   long pages = 0, resident = 0;
   FILE *file = fopen("/proc/self/statm", "r");
   SO(file != NULL && fscanf(file, "%ld %ld", &pages, &resident) == 2);
   fclose(file);
   return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

/* ---- Loading ----------------------------------------------------------------------------- */

static void plain(void)
{
   use(0x41);
}

static void cycles(void)
{
   long before = 0;
   for (int i = 1; i <= 40; i++) {
      use(i);
      SO(dlclose(library) == 0);
      load();
      if (i == 10) {
         before = resident_kib();
      }
   }
   SO(resident_kib() - before < 2048);
}

/* Python cannot be had: one message, one code, and nothing else changes. */
static void missing(void)
{
   uint8 sector[SECTOR] = {7};
   for (unsigned i = 1; i <= 2; i++) {
      IS(VIX_E_DISK_SUBSYSTEM_INIT_FAIL, init());
      SO(warnings_seen == i);
   }
   printf("%s", last_warning);
   char *text = VixDiskLib_GetErrorText(VIX_E_DISK_SUBSYSTEM_INIT_FAIL, NULL);
   printf("%s\n", text);
   VixDiskLib_FreeErrorText(text);
   IS(VIX_E_DISK_NOINIT, VixDiskLib_Connect(NULL, &here));
   IS(VIX_E_DISK_NOINIT, VixDiskLib_Read((VixDiskLibHandle)1, 0, 1, sector));
   SO(here == NULL && sector[0] == 7);
   VixDiskLibConnectParams *params = VixDiskLib_AllocateConnectParams();
   SO(params != NULL);
   VixDiskLib_FreeConnectParams(params);
   VixDiskLib_Exit();
   SO(warnings_seen == 2);
}

/* ---- What belongs to the program ----------------------------------------------------------- */

static void locale(void)
{
   static const char *const names[] = {"C", "C.UTF-8", "de_DE.UTF-8"};
   const char *name = getenv("WANTED_LOCALE");
   char before[512];
   SO(name != NULL);
   if (setlocale(LC_ALL, name) == NULL) {
      SO(strcmp(name, names[2]) == 0); /* only this one may be missing */
      return;
   }
   snprintf(before, sizeof before, "%s", setlocale(LC_ALL, NULL));
   begin();
   SO(strcmp(setlocale(LC_ALL, NULL), before) == 0);
   VixDiskLib_Exit();
   SO(strcmp(setlocale(LC_ALL, NULL), before) == 0);
}

#define RESTORER 0x04000000 /* a flag that is libc's own business */

static void dispositions(struct sigaction *all)
{
   for (int number = 1; number < 65; number++) {
      sigaction(number, NULL, &all[number]);
   }
}

/* Threads of the library must take no signal of the program. */
static void threads_block_all(void)
{
   char path[300], line[200];
   int seen = 0;
   DIR *tasks = opendir("/proc/self/task");
   for (struct dirent *entry; (entry = readdir(tasks)) != NULL;) {
      if (entry->d_name[0] == '.' || atoi(entry->d_name) == getpid()) {
         continue;
      }
      snprintf(path, sizeof path, "/proc/self/task/%s/status", entry->d_name);
      FILE *file = fopen(path, "r");
      while (file != NULL && fgets(line, sizeof line, file) != NULL) {
         unsigned long long blocked;
         if (sscanf(line, "SigBlk: %llx", &blocked) == 1) {
            /* All but KILL, STOP, and two that threads themselves are made of. */
            SO((blocked | 1ull << 8 | 1ull << 18 | 3ull << 31) == UINT64_MAX);
            seen++;
         }
      }
      fclose(file);
   }
   closedir(tasks);
   printf("threads of the library: %d\n", seen);
}

static pthread_t main_thread;
static volatile sig_atomic_t delivered;

static void take_signal(int number)
{
   delivered += pthread_equal(pthread_self(), main_thread) ? number : 1000;
}

static void signals(void)
{
   static struct sigaction before[65], after[65];
   sigset_t mask, now;
   uint8 sector[SECTOR];
   main_thread = pthread_self();
   dispositions(before);
   memset(&mask, 0, sizeof mask);
   memset(&now, 0, sizeof now);
   pthread_sigmask(SIG_SETMASK, NULL, &mask);
   begin();
   OK(VixDiskLib_Read(disk, 0, 1, sector));
   dispositions(after);
   pthread_sigmask(SIG_SETMASK, NULL, &now);
   for (int number = 1; number < 65; number++) {
      SO(before[number].sa_handler == after[number].sa_handler);
      SO((before[number].sa_flags & ~RESTORER) == (after[number].sa_flags & ~RESTORER));
   }
   SO(memcmp(&mask, &now, sizeof mask) == 0);
   threads_block_all();
   signal(SIGINT, take_signal);
   signal(SIGTERM, take_signal);
   kill(getpid(), SIGINT);
   while (delivered == 0) { /* the alarm of `main` ends it */
      OK(VixDiskLib_Read(disk, 0, 1, sector));
   }
   kill(getpid(), SIGTERM);
   while (delivered == SIGINT) {
      OK(VixDiskLib_Read(disk, 0, 1, sector));
   }
   SO(delivered == SIGINT + SIGTERM);
   VixDiskLib_Exit();
}

static void *use_in_thread(void *argument)
{
   use((int)(intptr_t)argument);
   return NULL;
}

/* Memory that was read into may go away when the call has returned. */
static void gone_done(void *data, VixError code)
{
   uint8 *page = data;
   SO(code == VIX_OK);
   SO(munmap(page, 1 << 20) == 0);
}

static void stale_buffers(void)
{
   uint8 other[SECTOR];
   begin();
   for (int i = 0; i < 50; i++) {
      uint8 *pages = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      OK(VixDiskLib_Read(disk, 0, SECTORS, pages));
      IS(VIX_E_DISK_OUTOFRANGE, VixDiskLib_Read(disk, 1, SECTORS, pages));
      OK(VixDiskLib_Write(disk, 0, SECTORS, pages));
      IS(VIX_ASYNC, VixDiskLib_ReadAsync(disk, 0, SECTORS, pages, gone_done, pages));
      OK(VixDiskLib_Wait(disk));
      OK(VixDiskLib_Read(disk, 0, 1, other));
   }
   OK(VixDiskLib_Close(disk));
   VixDiskLib_Exit();
}

/* ---- Threads ----------------------------------------------------------------------------- */

static void *read_once(void *argument)
{
   uint8 sector[SECTOR];
   (void)argument;
   OK(VixDiskLib_Read(disk, 0, 1, sector));
   return NULL;
}

static void *read_on(void *argument)
{
   uint8 sector[SECTOR];
   (void)argument;
   while (!stop && VixDiskLib_Read(disk, 0, 1, sector) == VIX_OK) {
   }
   return NULL;
}

static void start(pthread_t *threads, int count, void *(*function)(void *))
{
   for (int i = 0; i < count; i++) {
      SO(pthread_create(&threads[i], NULL, function, NULL) == 0);
   }
}

static void join(pthread_t *threads, int count)
{
   for (int i = 0; i < count; i++) {
      pthread_join(threads[i], NULL);
   }
}

static void short_threads(void)
{
   pthread_t threads[20];
   long before = 0;
   begin();
   for (int i = 0; i < 1000; i++) {
      start(threads, 20, read_once);
      join(threads, 20);
      if (i == 200) {
         before = resident_kib();
      }
   }
   SO(resident_kib() - before < 2048);
   VixDiskLib_Exit();
}

static void first_thread_ends(void)
{
   pthread_t thread, threads[2];
   pthread_create(&thread, NULL, use_in_thread, (void *)1);
   pthread_join(thread, NULL);
   use(2);
   begin();
   start(threads, 2, read_once);
   join(threads, 2);
   VixDiskLib_Exit();
}

static void busy_exit(void)
{
   pthread_t threads[4];
   begin();
   start(threads, 4, read_on);
   exit(finish());
}

static void exit_while_busy(void)
{
   pthread_t threads[4];
   begin();
   start(threads, 4, read_on);
   VixDiskLib_Exit(); /* closes the disk under them: they get an error and end */
   join(threads, 4);
   use(5);
}

/* ---- Forks ------------------------------------------------------------------------------- */

static void wait_for(pid_t child)
{
   int status = -1;
   SO(waitpid(child, &status, 0) == child);
   SO(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void fork_before(void)
{
   pid_t child = fork();
   if (child == 0) {
      use(1);
      exit(wrong_things);
   }
   wait_for(child);
   use(2);
}

static void in_child(void)
{
   uint8 sector[SECTOR] = {7};
   VixDiskLibConnection other;
   VixDiskLibConnectParams *params = VixDiskLib_AllocateConnectParams();
   SO(params != NULL);
   VixDiskLib_FreeConnectParams(params);
   IS(VIX_E_FAIL, VixDiskLib_Read(disk, 0, 1, sector));
   IS(VIX_E_FAIL, VixDiskLib_ReadAsync(disk, 0, 1, sector, gone_done, NULL));
   IS(VIX_E_FAIL, VixDiskLib_Wait(disk));
   IS(VIX_E_FAIL, VixDiskLib_Connect(NULL, &other));
   IS(VIX_E_FAIL, init());
   SO(strstr(last_warning, "fork") != NULL && sector[0] == 7);
   VixDiskLib_Exit();
   exit(wrong_things); /* with all handlers of exit */
}

static void fork_after(void)
{
   pthread_t threads[4];
   begin();
   start(threads, 4, read_on);
   for (int i = 0; i < 20; i++) {
      fflush(stdout);
      pid_t child = fork();
      if (child == 0) {
         alarm(20);
         in_child();
      }
      wait_for(child);
      read_once(NULL);
   }
   pid_t child = fork();
   if (child == 0) {
      execlp("true", "true", (char *)NULL);
      _exit(9);
   }
   wait_for(child);
   stop = 1;
   join(threads, 4);
   OK(VixDiskLib_Close(disk));
   VixDiskLib_Exit();
}

static const struct {
   const char *name;
   void (*run)(void);
} all[] = {
   {"plain", plain},
   {"cycles", cycles},
   {"missing", missing},
   {"locale", locale},
   {"signals", signals},
   {"stale-buffers", stale_buffers},
   {"short-threads", short_threads},
   {"first-thread-ends", first_thread_ends},
   {"busy-exit", busy_exit},
   {"exit-while-busy", exit_while_busy},
   {"fork-before", fork_before},
   {"fork-after", fork_after},
};

int main(int argc, char **argv)
{
   alarm(90);
   library_path = argc == 3 ? argv[1] : "";
   load();
   for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
      if (strcmp(argv[2], all[i].name) == 0) {
         all[i].run();
         return finish();
      }
   }
   return 2;
}
