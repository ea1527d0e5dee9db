/* Workers and masters that exchange what AceBase's do: lock requests, requests, events. */
#ifndef CLUSTER_H
#define CLUSTER_H

#include "flow.h"

void cluster_prepare(void);
void cluster_start(uint64_t now);
struct order cluster_order(void);

#endif
