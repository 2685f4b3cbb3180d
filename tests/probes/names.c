/* Names and numbers without any server: what getaddrinfo does with them. */
#include "probe.h"

static void one(const char *node, const char *service, int family, int flags, const char *name)
{
	struct addrinfo hints = { .ai_family = family, .ai_socktype = SOCK_STREAM, .ai_flags = flags }, *all = NULL;
	int rc = getaddrinfo(node, service, &hints, &all), n = 0;
	if (rc)
		say("%s: %s", name, rc == EAI_NONAME ? "EAI_NONAME" : rc == EAI_SERVICE ? "EAI_SERVICE" : rc == EAI_ADDRFAMILY ? "EAI_ADDRFAMILY" : "other");
	for (struct addrinfo *i = all; i; i = i->ai_next)
		say("%s %d: family %d %s port %d", name, n++, i->ai_family, addr_text(i->ai_addr), ntohs(((struct sockaddr_in *)i->ai_addr)->sin_port));
	if (all)
		freeaddrinfo(all);
}

int main(void)
{
	one("127.0.0.1", "80", AF_UNSPEC, AI_NUMERICHOST | AI_NUMERICSERV, "v4 number");
	one("::1", "80", AF_UNSPEC, AI_NUMERICHOST | AI_NUMERICSERV, "v6 number");
	one("fe80::1%lo", "80", AF_UNSPEC, AI_NUMERICHOST | AI_NUMERICSERV, "scoped number");
	one("fe80::1%nonsense0", "80", AF_UNSPEC, AI_NUMERICHOST | AI_NUMERICSERV, "scoped nonsense");
	one(NULL, "80", AF_UNSPEC, AI_PASSIVE | AI_NUMERICSERV, "passive");
	one(NULL, "80", AF_INET, AI_NUMERICSERV, "loopback");
	one("not-a-number", "80", AF_UNSPEC, AI_NUMERICHOST | AI_NUMERICSERV, "no number");
	one("127.0.0.1", "80", AF_INET6, AI_V4MAPPED | AI_NUMERICHOST | AI_NUMERICSERV, "mapped");
	struct sockaddr_in6 ll = v6("fe80::5", 7);
	ll.sin6_scope_id = 1;
	char host[64], serv[16];
	int rc = getnameinfo(SA(ll), host, sizeof(host), serv, sizeof(serv), NI_NUMERICHOST | NI_NUMERICSERV);
	say("getnameinfo: %d %s %s", rc, host, serv);
	say("descriptors left: %d", open_fds() - 3);
	return 0;
}
