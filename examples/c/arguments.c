/* SPDX-License-Identifier: Apache-2.0 */
/* The arguments of vixdisk: what may be given, and what was. */

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vixdisk.h"

Settings set = {.adapter = "scsi",
                .count = 1,
                .value = 255,
                .megabytes = 100,
                .chunk = VIXDISKLIB_MIN_CHUNK_SIZE,
                .port = 443,
                .nfc_port = 902};

const Command *command;

typedef struct {
   const char *name;
   const char **text; /* one of these two is set, or neither for -single */
   uint64 *number;
   uint64 most;
   const char *help;
} Option;

static const Option options[] = {
   {"-adapter", &set.adapter, NULL, 0, "ide|scsi (scsi is BusLogic)"},
   {"-start", NULL, &set.start, UINT64_MAX, "SECTOR (0)"},
   {"-count", NULL, &set.count, UINT64_MAX, "SECTORS (1)"},
   {"-val", NULL, &set.value, 255, "BYTE (255)"},
   {"-cap", NULL, &set.megabytes, 1 << 26, "MEGABYTES (100)"},
   {"-single", NULL, NULL, 0, "open the disk without its parents"},
   {"-compress", &set.compress, NULL, 0, "zlib|fastlz|skipz: on the way over the network"},
   {"-chunksize", NULL, &set.chunk, UINT64_MAX, "SECTORS of a chunk (128)"},
   {"-host", &set.host, NULL, 0, "NAME of the vCenter or ESXi"},
   {"-user", &set.user, NULL, 0, "NAME"},
   {"-password", &set.password, NULL, 0, "WORD"},
   {"-cookie", &set.cookie, NULL, 0, "COOKIE of a session, instead of logging in"},
   {"-port", NULL, &set.port, 65535, "NUMBER (443)"},
   {"-nfchostport", NULL, &set.nfc_port, 65535, "NUMBER (902)"},
   {"-vm", &set.vm, NULL, 0, "moref=ID of the virtual machine"},
   {"-fcdid", &set.fcd, NULL, 0, "ID of a first-class disk"},
   {"-fcdds", &set.fcd_datastore, NULL, 0, "MOREF of its datastore"},
   {"-fcdssid", &set.fcd_session, NULL, 0, "ID of its snapshot"},
   {"-libdir", &set.libdir, NULL, 0, "FOLDER of the library"},
   {"-initex", &set.config, NULL, 0, "FILE with the configuration"},
   {"-ssmoref", &set.snapshot, NULL, 0, "MOREF of the snapshot"},
   {"-mode", &set.mode, NULL, 0, "TRANSPORT:TRANSPORT..."},
   {"-thumb", &set.thumb, NULL, 0, "XX:XX:... of the server's certificate"},
   {"-vimapiver", &set.vimapi, NULL, 0, "VERSION"},
};

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

int usage(const char *problem, const char *what)
{
   if (problem != NULL) {
      fprintf(stderr, "vixdisk: %s %s\n", problem, what);
   }
   fputs("usage: vixdisk COMMAND [OPTION...] DISK\n\ncommands:\n", stderr);
   for (size_t i = 0; commands[i].name != NULL; i++) {
      fprintf(stderr, "  %-20s %s\n", commands[i].name, commands[i].help);
   }
   fputs("\noptions:\n", stderr);
   for (size_t i = 0; i < COUNT(options); i++) {
      fprintf(stderr, "  %-20s %s\n", options[i].name, options[i].help);
   }
   return 2;
}

int parse_number(const char *text, uint64 *number)
{
   char *end;
   errno = 0;
   unsigned long long value = strtoull(text, &end, 0);
   if (!isdigit((unsigned char)text[0]) || *end != 0 || errno != 0) {
      return -1;
   }
   *number = value;
   return 0;
}

/* Take one option; returns how many arguments it was, 0 for none, -1 for a wrong one. */
static int take_option(const char *name, const char *value)
{
   for (size_t i = 0; i < COUNT(options); i++) {
      const Option *option = &options[i];
      if (strcmp(option->name, name) != 0) {
         continue;
      }
      if (option->text == NULL && option->number == NULL) {
         set.single = 1;
         return 1;
      }
      if (option->text != NULL) {
         *option->text = value;
         return 2;
      }
      return parse_number(value, option->number) == 0 && *option->number <= option->most ? 2 : -1;
   }
   return 0;
}

static const Command *find_command(const char *name)
{
   for (size_t i = 0; commands[i].name != NULL; i++) {
      if (strcmp(commands[i].name, name) == 0) {
         return &commands[i];
      }
   }
   return NULL;
}

/* Whether what was given goes together; tells if not. */
static int sensible(void)
{
   static const char *const packings[] = {"zlib", "fastlz", "skipz"};
   int known = set.compress == NULL;
   for (size_t i = 0; i < COUNT(packings) && !known; i++) {
      known = strcmp(set.compress, packings[i]) == 0;
   }
   if (!known) {
      return usage("unknown compression", set.compress), 0;
   }
   if (strcmp(set.adapter, "ide") != 0 && strcmp(set.adapter, "scsi") != 0) {
      return usage("unknown adapter", set.adapter), 0;
   }
   if ((set.host != NULL) != (set.user != NULL) || (set.host != NULL) != (set.password != NULL)) {
      return usage("-host, -user and -password go together", ""), 0;
   }
   return 1;
}

int parse(int argc, char **argv)
{
   int i = 1;
   while (i < argc - 1) {
      const Command *found = find_command(argv[i]);
      int taken = found != NULL ? 1 + found->arguments : take_option(argv[i], argv[i + 1]);
      if (taken <= 0 || i + taken > argc - 1) {
         return usage(taken == 0 ? "unknown option" : "wrong value for", argv[i]), 0;
      }
      if (found != NULL && command != NULL) {
         return usage("only one command can be given, not also", argv[i]), 0;
      }
      if (found != NULL) {
         command = found;
         set.first = found->arguments > 0 ? argv[i + 1] : NULL;
         set.second = found->arguments > 1 ? argv[i + 2] : NULL;
      }
      i += taken;
   }
   set.path = argv[argc - 1];
   return command != NULL ? sensible() : (usage("a command is needed", ""), 0);
}
