// Preloaded into a process: writes the names that it looks up and the addresses that it connects to, but for this
// machine's own, to the file OUTBOUND, a line each, and lets none of them succeed.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void record(const char *what) {
  int file = open(getenv("OUTBOUND"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  dprintf(file, "%s\n", what);
  close(file);
}

static int is_local(const char *name) {
  return !strcmp(name, "localhost") || !strncmp(name, "127.", 4) || !strcmp(name, "::1") || !strcmp(name, "0.0.0.0") || !strcmp(name, "::");
}

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
  int (*next)(const char *, const char *, const struct addrinfo *, struct addrinfo **) = dlsym(RTLD_NEXT, "getaddrinfo");
  if (name == NULL || is_local(name)) return next(name, service, hints, found);
  record(name);
  return EAI_NONAME;
}

// Whether an address is on another machine; it is recorded then.
static int leaves(const struct sockaddr *address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address == NULL) return 0;
  if (address->sa_family == AF_INET) inet_ntop(AF_INET, &((const struct sockaddr_in *)address)->sin_addr, text, sizeof text);
  if (address->sa_family == AF_INET6) inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)address)->sin6_addr, text, sizeof text);
  if (!*text || is_local(text)) return 0;
  record(text);
  errno = ENETUNREACH;
  return 1;
}

int connect(int socket, const struct sockaddr *address, socklen_t length) {
  int (*next)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
  return leaves(address) ? -1 : next(socket, address, length);
}

ssize_t sendto(int socket, const void *data, size_t size, int flags, const struct sockaddr *address, socklen_t length) {
  ssize_t (*next)(int, const void *, size_t, int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "sendto");
  return leaves(address) ? -1 : next(socket, data, size, flags, address, length);
}
