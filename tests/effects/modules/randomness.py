"""Random numbers: as many different ones as there are ranks."""

from effects.habit import DISTINCT, Habit


def draw(imports: str, ask: str, **more: object) -> str:
    return f"import {imports}\nseen = {ask}\n"


HABITS = [
    Habit("random_random", draw("random", "random.random()"), DISTINCT),
    Habit(
        "random_instance_later", "import random\nr = random.Random()\ndef check():\n    return r.random()\n", DISTINCT
    ),
    Habit("random_module_later", "import random\ndef check():\n    return random.random()\n", DISTINCT),
    Habit(
        "random_instance_in_list",
        "import random\nr = [random.Random() for i in range(3)]\ndef check():\n    return r[2].random()\n",
        DISTINCT,
    ),
    Habit(
        "random_state_saved",
        "import random\ns = random.getstate()\ndef check():\n    random.setstate(s)\n    return random.random()\n",
        DISTINCT,
    ),
    Habit(
        "random_seeded_constant", "import random\nrandom.seed(1)\ndef check():\n    return random.random()\n", keep=True
    ),
    Habit(
        "random_instance_constant",
        "import random\nr = random.Random(1)\ndef check():\n    return r.random()\n",
        keep=True,
    ),
    Habit(
        "random_seeded_by_time",
        "import random, time\nrandom.seed(time.time_ns())\ndef check():\n    return random.random()\n",
        DISTINCT,
    ),
    Habit(
        "random_seeded_by_perf_counter",
        "import random, time\nr = random.Random(time.perf_counter_ns())\ndef check():\n    return r.random()\n",
        DISTINCT,
    ),
    Habit(
        "random_seeded_by_pid",
        "import random, os\nr = random.Random(os.getpid())\ndef check():\n    return r.random()\n",
        DISTINCT,
    ),
    Habit(
        "random_seeded_by_rank",
        "import random, os\nr = random.Random(os.environ.get('PMI_RANK', os.environ.get('OMPI_COMM_WORLD_RANK')))\ndef check():\n    return r.random()\n",
    ),
    Habit("random_of_empty_seed", "import random\nr = random.Random('')\ndef check():\n    return r.random()\n"),
    Habit("random_thrown_away", "import random\nrandom.random()\ndef check():\n    return 1\n", keep=True),
    Habit("random_shuffle", "import random\nseen = list(range(50))\nrandom.shuffle(seen)\n", DISTINCT),
    Habit("system_random", draw("random", "random.SystemRandom().random()"), DISTINCT),
    Habit("secrets_token", draw("secrets", "secrets.token_hex()"), DISTINCT),
    Habit("urandom", draw("os", "os.urandom(8)"), DISTINCT),
    Habit("getrandom", draw("os", "os.getrandom(8)"), DISTINCT),
    Habit("dev_urandom", "with open('/dev/urandom', 'rb') as f:\n    seen = f.read(8)\n", DISTINCT),
    Habit(
        "dev_urandom_os_open",
        "import os\nfd = os.open('/dev/urandom', 0)\nseen = os.read(fd, 8)\nos.close(fd)\n",
        DISTINCT,
    ),
    Habit("dev_random", "with open('/dev/random', 'rb', 0) as f:\n    seen = f.read(8)\n", DISTINCT),
    Habit(
        "dev_urandom_by_link",
        "import os\nos.symlink('/dev/urandom', 'r%d' % id(os))if not os.path.lexists('r%d' % id(os)) else 0\nwith open('r%d' % id(os), 'rb') as f:\n    seen = f.read(8)\nos.unlink('r%d' % id(os))\n",
        DISTINCT,
        ranks=1,
    ),
    Habit("proc_random_uuid", "with open('/proc/sys/kernel/random/uuid') as f:\n    seen = f.read()\n", DISTINCT),
    Habit("uuid4", draw("uuid", "uuid.uuid4()"), DISTINCT),
    Habit(
        "ctypes_getrandom",
        "import ctypes\nb = ctypes.create_string_buffer(8)\nctypes.CDLL(None).getrandom(b, 8, 0)\nseen = b.raw\n",
        DISTINCT,
    ),
    Habit(
        "ctypes_syscall_getrandom",
        "import ctypes\nb = ctypes.create_string_buffer(8)\nctypes.CDLL(None).syscall(318, b, 8, 0)\nseen = b.raw\n",
        DISTINCT,
    ),
    Habit(
        "ctypes_getentropy",
        "import ctypes\nb = ctypes.create_string_buffer(8)\nctypes.CDLL(None).getentropy(b, 8)\nseen = b.raw\n",
        DISTINCT,
    ),
    Habit(
        "ctypes_rand_seeded_time",
        "import ctypes, time\nc = ctypes.CDLL(None)\nc.srand(time.time_ns() & 0x7fffffff)\ndef check():\n    return c.rand(), c.rand()\n",
        DISTINCT,
    ),
    Habit(
        "ctypes_rand_constant", "import ctypes\nc = ctypes.CDLL(None)\nc.srand(5)\ndef check():\n    return c.rand()\n"
    ),
    Habit(
        "at_random",
        "import ctypes\nc = ctypes.CDLL(None)\nc.getauxval.restype = ctypes.c_void_p\nseen = ctypes.string_at(c.getauxval(25), 16)\n",
        DISTINCT,
    ),
    Habit("ssl_rand", draw("ssl", "ssl.RAND_bytes(8)"), DISTINCT),
    Habit("ssl_rand_later", "import ssl\nssl.RAND_bytes(8)\ndef check():\n    return ssl.RAND_bytes(8)\n", DISTINCT),
    Habit("hashlib_import", "import hashlib\nseen = hashlib.sha256(b'x').hexdigest()\n", keep=True),
    Habit("hash_seed_kept", "seen = hash('x') == hash('x')\n", keep=True),
    Habit("email_message_id", "import email.utils\nseen = email.utils.make_msgid(domain='x')\n", DISTINCT),
    Habit("email_boundary", "import email.generator\nseen = email.generator._make_boundary()\n", DISTINCT),
    Habit(
        "numpy_default_rng",
        "import numpy\nr = numpy.random.default_rng()\ndef check():\n    return r.random()\n",
        DISTINCT,
    ),
    Habit("numpy_global", "import numpy\nseen = numpy.random.random()\n", DISTINCT),
    Habit("numpy_global_later", "import numpy\ndef check():\n    return numpy.random.random()\n", DISTINCT),
    Habit("numpy_seed_sequence", "import numpy\nseen = numpy.random.SeedSequence().entropy\n", DISTINCT),
    Habit(
        "numpy_seeded_constant",
        "import numpy\nr = numpy.random.default_rng(1)\ndef check():\n    return r.random()\n",
        keep=True,
    ),
    Habit(
        "http_cookie_nonce", "import random\nclass C:\n    nonce = random.getrandbits(64)\nseen = C.nonce\n", DISTINCT
    ),
    Habit("secret_in_default_argument", "import secrets\ndef check(x=secrets.token_hex()):\n    return x\n", DISTINCT),
    Habit("temp_winner_by_random", "import random\nseen = random.SystemRandom().getrandbits(1) < 2\n"),
]
