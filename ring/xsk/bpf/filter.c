// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
//
// The XDP filter: decides for each received frame whether it is the
// translator's, which gets it through the AF_XDP socket of its queue, or the
// kernel's, which gets it untouched. In doubt a frame is the kernel's.
//
//   IPv6   destination in pool6                                   -> socket
//   IPv4   destination in pool4 and
//            TCP, UDP     destination port in the set             -> socket
//            echo reply   identifier in the set                   -> socket
//            echo request identifier of a static mapping          -> socket
//            ICMP error   quoting a packet that we sent           -> socket
//            fragment     of whatever                             -> socket
//            other protocols that the configuration names         -> socket
//            with exclusive pools: all but what exclusive_ours says -> socket
//   all else                                                      -> kernel
//
// With all_ip, for programs that measure, every IP packet to this station -> socket.
//
// Only the first fragment of a datagram shows whose it is, and it may come
// last. So the worker gets them all, and gives the host's back to the kernel.
//
// What is the translator's on a queue without a socket, between two instances,
// is dropped: the kernel would answer it.
//
// Every packet access lies behind a comparison with data_end, and every
// length read from a packet is compared with what the packet has.

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ETH_IPV4 0x0800
#define ETH_IPV6 0x86dd
#define ETH_LEN 14
#define IPV6_LEN 40
#define IPV4_MIN_LEN 20

#define PROTO_ICMP 1
#define PROTO_TCP 6
#define PROTO_UDP 17

#define FRAGMENT_OFFSET 0x1fff
#define MORE_FRAGMENTS 0x2000

#define ICMP_ECHO_REPLY 0
#define ICMP_UNREACHABLE 3
#define ICMP_SOURCE_QUENCH 4
#define ICMP_ECHO_REQUEST 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER_PROBLEM 12

#define POOL6_MAX 16

// Headers are declared here, not taken from the kernel's, because those lay
// out their bit fields for the machine that compiles, and this file is
// compiled for both byte orders.
struct eth {
	__u8 dst[6];
	__u8 src[6];
	__be16 type;
} __attribute__((packed));

struct ipv6 {
	__be32 version_class_label;
	__be16 payload_len;
	__u8 next_header;
	__u8 hop_limit;
	__u8 src[16];
	__u64 dst[2];
} __attribute__((packed));

struct ipv4 {
	__u8 version_ihl;
	__u8 tos;
	__be16 total_len;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 proto;
	__be16 check;
	__be32 src;
	__be32 dst;
} __attribute__((packed));

struct icmp {
	__u8 type;
	__u8 code;
	__be16 check;
	__be16 id;
	__be16 seq;
} __attribute__((packed));

struct ports {
	__be16 src;
	__be16 dst;
} __attribute__((packed));

// An IPv6 prefix, its words as they lie in a packet.
struct prefix6 {
	__u64 net[2];
	__u64 mask[2];
};

struct config {
	__u32 pool6_count;
	__u8 serve_ipv6; // this interface receives from IPv6 clients
	__u8 serve_ipv4; // this interface receives from IPv4 servers
	__u8 mac[6];     // frames to other addresses are not even the host's
	__be16 control_port; // UDP port of the host's on exclusive pool4 addresses; 0: none
	__u8 exclusive;      // all else that is sent to a pool4 address is ours
	__u8 all_ip;         // every IP packet to this station is ours
	__u8 protocols[32]; // one bit for each protocol without ports: ours, not the host's
	struct prefix6 pool6[POOL6_MAX];
};

struct pool4_key {
	__u32 prefix_len;
	__be32 addr;
};

// Indexes into port_sets for the addresses below one prefix.
struct pool4_sets {
	__u32 tcp;
	__u32 udp;
	__u32 icmp;
};

struct port_set {
	__u8 bits[65536 / 8];
};

// A static mapping. proto is PROTO_ICMP for echo identifiers.
struct static_key {
	__be32 addr;
	__u16 port;
	__u8 proto;
	__u8 pad;
};

// The socket of each queue; an entry leaves when its socket closes.
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

// Queues with a socket: not read here, kept by the loader for whoever looks
// with bpftool (an XSKMAP cannot be read from user space).
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u32);
} queues SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct pool4_key);
	__type(value, struct pool4_sets);
} pool4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, struct port_set);
} port_sets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct static_key);
	__type(value, __u8);
} statics SEC(".maps");

// Steps over an IPv4 header of hdr_len octets (20 to 60, a multiple of four).
// Without CAP_PERFMON the verifier lets a packet pointer move by constants
// only; the empty assembler statements keep the compiler from adding them up.
static __always_inline const void *after_ipv4(const void *ip, __u32 hdr_len)
{
	__u32 words = hdr_len / 4 - IPV4_MIN_LEN / 4;

	ip += IPV4_MIN_LEN;
	if (words & 1) {
		ip += 4;
		asm volatile("" : "+r"(ip));
	}
	if (words & 2) {
		ip += 8;
		asm volatile("" : "+r"(ip));
	}
	if (words & 4) {
		ip += 16;
		asm volatile("" : "+r"(ip));
	}
	if (words & 8) {
		ip += 32;
		asm volatile("" : "+r"(ip));
	}
	return ip;
}

static __always_inline int in_pool6(const struct config *cfg, const struct ipv6 *ip)
{
	__u64 hi = ip->dst[0], lo = ip->dst[1];

	// Unrolled, for constant offsets: without CAP_PERFMON the verifier refuses
	// a pointer that moves by another amount each time round.
#pragma unroll
	for (int i = 0; i < POOL6_MAX; i++) {
		if (i >= cfg->pool6_count)
			return 0;
		const struct prefix6 *p = &cfg->pool6[i];
		if ((hi & p->mask[0]) == p->net[0] && (lo & p->mask[1]) == p->net[1])
			return 1;
	}
	return 0;
}

static __always_inline const struct pool4_sets *find_pool4(__be32 addr)
{
	struct pool4_key key = {.prefix_len = 32, .addr = addr};

	return bpf_map_lookup_elem(&pool4, &key);
}

static __always_inline int in_set(__u32 index, __u16 port)
{
	const struct port_set *set = bpf_map_lookup_elem(&port_sets, &index);

	return set && (set->bits[port >> 3] & (1 << (port & 7)));
}

static __always_inline int is_static(__be32 addr, __u8 proto, __u16 port)
{
	struct static_key key = {.addr = addr, .port = port, .proto = proto};

	return bpf_map_lookup_elem(&statics, &key) != 0;
}

// Whether (addr, proto, port) is a transport address of the translator's.
static __noinline int is_mapped(__be32 addr, __u8 proto, __u16 port)
{
	const struct pool4_sets *sets = find_pool4(addr);

	if (!sets)
		return 0;
	__u32 index = proto == PROTO_TCP ? sets->tcp : proto == PROTO_UDP ? sets->udp : sets->icmp;
	return in_set(index, port) || is_static(addr, proto, port);
}

// Whether packets of a protocol without ports are ours: a handoff NAT64 sends
// them to their server.
static __always_inline int protocol_ours(const struct config *cfg, __u8 proto)
{
	return cfg->protocols[proto >> 3] >> (proto & 7) & 1;
}

// Whether the packet quoted at quote, with len octets of it inside the ICMP
// error, left from here: RFC 7915 section 4.2 translates its source.
static __always_inline int quotes_ours(const struct config *cfg, const void *quote, __u32 len, const void *data_end)
{
	const struct ipv4 *ip = quote;

	if ((const void *)(ip + 1) > data_end || len < IPV4_MIN_LEN)
		return 0;
	__u32 hdr_len = (ip->version_ihl & 0xf) * 4;
	if (ip->version_ihl >> 4 != 4 || hdr_len < IPV4_MIN_LEN || len < hdr_len + 8)
		return 0;
	if (ip->fragment & bpf_htons(FRAGMENT_OFFSET))
		return 0; // no ports in there to tell by
	const void *l4 = after_ipv4(quote, hdr_len);
	if (l4 + 8 > data_end)
		return 0;
	if (ip->proto == PROTO_TCP || ip->proto == PROTO_UDP)
		return is_mapped(ip->src, ip->proto, bpf_ntohs(((const struct ports *)l4)->src));
	const struct icmp *echo = l4;
	if (ip->proto == PROTO_ICMP && (echo->type == ICMP_ECHO_REQUEST || echo->type == ICMP_ECHO_REPLY))
		return is_mapped(ip->src, PROTO_ICMP, bpf_ntohs(echo->id));
	return ip->proto != PROTO_ICMP && protocol_ours(cfg, ip->proto) && find_pool4(ip->src);
}

static __always_inline int icmp_ours(const struct config *cfg, const struct ipv4 *ip, const void *l4, __u32 len, const void *data_end)
{
	const struct icmp *icmp = l4;

	if ((const void *)(icmp + 1) > data_end || len < sizeof(*icmp))
		return 0;
	switch (icmp->type) {
	case ICMP_ECHO_REPLY:
		return is_mapped(ip->dst, PROTO_ICMP, bpf_ntohs(icmp->id));
	case ICMP_ECHO_REQUEST:
		// A ping to the pool4 address itself is the host's to answer.
		return is_static(ip->dst, PROTO_ICMP, bpf_ntohs(icmp->id));
	case ICMP_UNREACHABLE:
	case ICMP_SOURCE_QUENCH:
	case ICMP_TIME_EXCEEDED:
	case ICMP_PARAMETER_PROBLEM:
		return quotes_ours(cfg, icmp + 1, len - sizeof(*icmp), data_end);
	}
	return 0;
}

static __always_inline int is_control(const struct config *cfg, __be16 port)
{
	return cfg->control_port && port == cfg->control_port;
}

// Whether the packet quoted inside an ICMP error to an exclusive address is
// the host's own: the control channel's, or of a protocol kept for the host.
static __always_inline int quotes_hosts(const struct config *cfg, const void *quote, __u32 len, const void *data_end)
{
	const struct ipv4 *ip = quote;

	if ((const void *)(ip + 1) > data_end || len < IPV4_MIN_LEN)
		return 0;
	__u32 hdr_len = (ip->version_ihl & 0xf) * 4;
	if (ip->version_ihl >> 4 != 4 || hdr_len < IPV4_MIN_LEN || len < hdr_len + 8)
		return 0;
	if (ip->fragment & bpf_htons(FRAGMENT_OFFSET))
		return 0;
	const struct ports *l4 = after_ipv4(quote, hdr_len);
	if ((const void *)l4 + 8 > data_end)
		return 0;
	if (ip->proto == PROTO_UDP)
		return is_control(cfg, l4->src);
	return ip->proto != PROTO_TCP && ip->proto != PROTO_ICMP && !protocol_ours(cfg, ip->proto);
}

// transport_ours for an exclusive address.
static __always_inline int exclusive_ours(const struct config *cfg, const struct ipv4 *ip, const void *l4, __u32 len, const void *data_end)
{
	const struct ports *ports = l4;
	const struct icmp *icmp = l4;

	switch (ip->proto) {
	case PROTO_TCP:
		return 1;
	case PROTO_UDP:
		return (const void *)(ports + 1) > data_end || len < sizeof(*ports) || !is_control(cfg, ports->dst);
	case PROTO_ICMP:
		if ((const void *)(icmp + 1) > data_end || len < sizeof(*icmp))
			return 1;
		switch (icmp->type) {
		case ICMP_UNREACHABLE:
		case ICMP_SOURCE_QUENCH:
		case ICMP_TIME_EXCEEDED:
		case ICMP_PARAMETER_PROBLEM:
			return !quotes_hosts(cfg, icmp + 1, len - sizeof(*icmp), data_end);
		}
		return 1;
	}
	return protocol_ours(cfg, ip->proto);
}

// A whole packet with len octets behind its header by its own
// account (Ethernet padding is not part of it).
static __always_inline int transport_ours(const struct config *cfg, const struct ipv4 *ip, __u32 hdr_len, __u32 len, const void *data_end)
{
	const void *l4 = after_ipv4(ip, hdr_len);

	if (cfg->exclusive)
		return exclusive_ours(cfg, ip, l4, len, data_end);
	if (ip->proto == PROTO_ICMP)
		return icmp_ours(cfg, ip, l4, len, data_end);
	if (ip->proto != PROTO_TCP && ip->proto != PROTO_UDP)
		return protocol_ours(cfg, ip->proto);
	const struct ports *ports = l4;
	if ((const void *)(ports + 1) > data_end || len < sizeof(*ports))
		return 0;
	return is_mapped(ip->dst, ip->proto, bpf_ntohs(ports->dst));
}

static __always_inline int ipv4_ours(const struct config *cfg, const struct ipv4 *ip, const void *data_end)
{
	if ((const void *)(ip + 1) > data_end)
		return 0;
	__u32 hdr_len = (ip->version_ihl & 0xf) * 4;
	__u32 total_len = bpf_ntohs(ip->total_len);
	if (ip->version_ihl >> 4 != 4 || hdr_len < IPV4_MIN_LEN || total_len < hdr_len)
		return 0;
	if (!find_pool4(ip->dst))
		return 0;
	if (ip->fragment & bpf_htons(FRAGMENT_OFFSET | MORE_FRAGMENTS))
		return 1;
	return transport_ours(cfg, ip, hdr_len, total_len - hdr_len, data_end);
}

static __always_inline int to_this_host(const struct config *cfg, const struct eth *eth)
{
	for (int i = 0; i < 6; i++)
		if (eth->dst[i] != cfg->mac[i])
			return 0;
	return 1;
}

// The name is what a left-over program is recognised by.
SEC("xdp")
int handoff64_xdp(struct xdp_md *ctx)
{
	const void *data = (const void *)(long)ctx->data;
	const void *data_end = (const void *)(long)ctx->data_end;
	const struct eth *eth = data;
	__u32 zero = 0;
	int ours = 0;

	if (data + ETH_LEN > data_end)
		return XDP_PASS;
	const struct config *cfg = bpf_map_lookup_elem(&settings, &zero);
	if (!cfg || !to_this_host(cfg, eth))
		return XDP_PASS;
	if (cfg->all_ip) {
		ours = eth->type == bpf_htons(ETH_IPV6) || eth->type == bpf_htons(ETH_IPV4);
	} else if (eth->type == bpf_htons(ETH_IPV6) && cfg->serve_ipv6) {
		const struct ipv6 *ip = data + ETH_LEN;
		if ((const void *)(ip + 1) > data_end || *(const __u8 *)ip >> 4 != 6)
			return XDP_PASS;
		ours = in_pool6(cfg, ip);
	} else if (eth->type == bpf_htons(ETH_IPV4) && cfg->serve_ipv4) {
		ours = ipv4_ours(cfg, data + ETH_LEN, data_end);
	}
	// The low bits of the flags are the verdict where the queue has no socket:
	// between two instances. The kernel knows nothing of the NAT's connections
	// and would end them with resets and unreachables; lost packets are sent again.
	return ours ? bpf_redirect_map(&xsks, ctx->rx_queue_index, XDP_DROP) : XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
