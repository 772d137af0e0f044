/* SPDX-License-Identifier: Apache-2.0 */
/* Connection parameters: whose they are, and how far they may be read. */

#ifndef DISKKIT_PARAMS_H
#define DISKKIT_PARAMS_H

#include "python.h"

/* Add what parameters say to a call; 15 arguments, whatever `params` is. */
void call_params(Call *call, const VixDiskLibConnectParams *params);

/* Parameters out of the answer of `get_connect_params`, which they take over; NULL: no memory. */
VixDiskLibConnectParams *params_from(char *answer, size_t size);

#endif
