"""Which addresses are served."""

import socket

import pytest

from avmae_jax.demo.server import require_free


def test_a_port_of_another_program_and_an_address_of_another_machine_are_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"{port}.*--port"):
            require_free("127.0.0.1", port)
    require_free("127.0.0.1", 0)
    with pytest.raises(ValueError, match="--host"):
        require_free("192.0.2.1", 0)  # reserved for documentation
