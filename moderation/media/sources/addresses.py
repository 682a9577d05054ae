"""Which addresses belong to the public internet. References of users are fetched from no other address.

`ipaddress.is_global` alone does not say so: it differs between versions of Python, and is true for addresses that carry
a private one inside them. The tables follow IANA's registries of special-purpose addresses.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

NOT_PUBLIC_4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network; Linux connects to itself
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by carriers; also the metadata of Alibaba Cloud
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's own service to its machines: a public address that is not on the internet
        "169.254.0.0/16",  # link-local; the metadata of most clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocols; also the metadata of Oracle Cloud
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT relays
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
PUBLIC_6 = IPv6Network("2000::/3")  # all that IANA has given out for the internet
NOT_PUBLIC_6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocols: Teredo, benchmarks, ORCHID and others
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, with an IPv4 address inside
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)
NAT64 = IPv6Network("64:ff9b::/96")  # leads to the IPv4 address in its last 32 bits
ISATAP = 0x0000_5EFE  # bits 32 to 63 of an address that leads to the IPv4 address in its last 32 bits
ISATAP_BITS = 0xFDFF_FFFF  # the other bit says whether the IPv4 address is unique


def is_public(text: str) -> bool:
    """Whether an address, as a socket is given it, belongs to the public internet.

    What is no address in its usual form is not public: a name, 127.1, 0x7f000001, an address with a zone.
    """
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return _is_public_4(address) if isinstance(address, IPv4Address) else _is_public_6(address)


def _is_public_4(address: IPv4Address) -> bool:
    return address.is_global and not any(address in network for network in NOT_PUBLIC_4)


def _is_public_6(address: IPv6Address) -> bool:
    if address.scope_id is not None:
        return False
    low = int(address)
    if address in NAT64:
        return _is_public_4(IPv4Address(low & 0xFFFF_FFFF))
    if low >> 32 & ISATAP_BITS == ISATAP:
        return False
    return address in PUBLIC_6 and address.is_global and not any(address in network for network in NOT_PUBLIC_6)
