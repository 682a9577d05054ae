"""Only addresses of the public internet are public, whatever they carry inside."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from moderation.media.sources.addresses import NOT_PUBLIC_4, NOT_PUBLIC_6, is_public
from tests.support.address_forms import INNER, ODD

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "93.184.215.14",
    "172.32.0.1",
    "192.0.1.1",
    "223.255.255.255",
    "2001:4860:4860::8888",
    "2606:4700::1111",
    "2a00:1450:4001:82b::200e",
    "2400:cb00::1",
    "64:ff9b::808:808",  # a public IPv4 address behind the NAT64 of a cluster without IPv4
]


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", INNER)
def test_no_inner_address_is_public(address: str) -> None:
    ip_address(address)  # it is one
    assert not is_public(address)


@pytest.mark.parametrize("text", ODD)
def test_what_is_no_address_in_its_usual_form_is_not_public(text: str) -> None:
    assert not is_public(text)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["::", "::ffff:", "::ffff:0:", "64:ff9b:1::"]))
def test_no_address_that_carries_another_is_public(carried: int, prefix: str) -> None:
    assert not is_public(str(IPv6Address(int(IPv6Address(f"{prefix}0:0")) | carried)))
    assert not is_public(str(IPv6Address(0x2002 << 112 | carried << 80)))  # 6to4
    assert not is_public(str(IPv6Address(0x20010000 << 96 | carried)))  # Teredo
    for isatap in (0x0000_5EFE, 0x0200_5EFE):
        assert not is_public(str(IPv6Address(int(IPv6Address("2606:4700::")) | isatap << 32 | carried)))


@given(st.integers(0, 2**32 - 1))
def test_behind_nat64_an_address_is_what_it_carries(carried: int) -> None:
    behind = IPv6Address(int(IPv6Address("64:ff9b::")) | carried)
    assert is_public(str(behind)) == is_public(str(IPv4Address(carried)))


@given(st.ip_addresses())
@example(IPv4Address("224.0.0.1"))
@example(IPv6Address("::ffff:0:7f00:1"))
def test_what_python_calls_inner_is_not_public(address: IPv4Address | IPv6Address) -> None:
    assert not is_public(str(address)) or (address.is_global and not address.is_multicast)


@pytest.mark.parametrize("network", [*NOT_PUBLIC_4, *NOT_PUBLIC_6], ids=str)
def test_a_network_that_is_not_public_ends_where_the_table_says(network: IPv4Network | IPv6Network) -> None:
    first, last = network[0], network[-1]
    assert not is_public(str(first))
    assert not is_public(str(last))
