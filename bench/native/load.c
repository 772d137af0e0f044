/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A load for an NBD server: load URI read|write DEPTH BYTES COUNT.
 *
 * COUNT requests of BYTES at random aligned places, DEPTH of them under way. Prints the seconds.
 */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <libnbd.h>

enum { MOST = 64 };

static void need(int right)
{
   if (!right) {
      fprintf(stderr, "load: %s\n", nbd_get_error() ? nbd_get_error() : "wrong usage");
      exit(1);
   }
}

static double now(void)
{
   struct timespec t;
   clock_gettime(CLOCK_MONOTONIC, &t);
   return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
   need(argc == 6);
   int writing = strcmp(argv[2], "write") == 0, depth = atoi(argv[3]);
   size_t size = (size_t)atol(argv[4]);
   long count = atol(argv[5]), begun = 0, done = 0;
   need(depth > 0 && depth <= MOST && size > 0);
   struct nbd_handle *nbd = nbd_create();
   need(nbd != NULL && nbd_connect_uri(nbd, argv[1]) == 0);
   uint64_t places = (uint64_t)nbd_get_size(nbd) / size, state = 88172645463325252u;
   int64_t cookies[MOST] = {0};
   char *buffers = malloc(size * MOST);
   memset(buffers, 0x5a, size * MOST);
   double begin = now();
   while (done < count) {
      for (int i = 0; i < depth; i++) {
         if (cookies[i] != 0) {
            int finished = nbd_aio_command_completed(nbd, (uint64_t)cookies[i]);
            need(finished >= 0);
            if (finished == 0) {
               continue;
            }
            cookies[i] = 0;
            done++;
         }
         if (begun < count) {
            state ^= state << 13, state ^= state >> 7, state ^= state << 17;
            uint64_t at = state % places * size;
            char *buffer = buffers + (size_t)i * size;
            cookies[i] = writing ? nbd_aio_pwrite(nbd, buffer, size, at, NBD_NULL_COMPLETION, 0)
                                 : nbd_aio_pread(nbd, buffer, size, at, NBD_NULL_COMPLETION, 0);
            need(cookies[i] > 0);
            begun++;
         }
      }
      if (done < count) {
         need(nbd_poll(nbd, -1) >= 0);
      }
   }
   printf("%.6f\n", now() - begin);
   nbd_shutdown(nbd, 0);
   nbd_close(nbd);
   free(buffers);
   return 0;
}
