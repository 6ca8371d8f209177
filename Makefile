# nbdspec: `make conformance` and `make check` are the two commands; both install what is missing (ci/packages).
# Sources are found by their place; objects are kept out of the tree. SAN=address,undefined builds with sanitizers.

VERSION := 0.1
CC := gcc
CLANG := clang-14
CFLAGS := -O2 -g
PYTHON := /usr/bin/python3
PYTEST := /usr/bin/pytest-3
SAN :=
BUILD := build$(if $(SAN),$(if $(findstring thread,$(SAN)),-tsan,-san))

rooms := harness fakeserver cases reports
# The workloads of cases/crash are programs of their own.
workloads := $(wildcard cases/crash/*.c)
sources := $(filter-out $(workloads),$(wildcard $(foreach depth,/*.c /*/*.c /*/*/*.c,$(addsuffix $(depth),$(rooms)))))
objects := $(sources:%.c=$(BUILD)/obj/%.o)
library := $(filter-out %/harness/main.o,$(objects))
units := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/unit_*.c))
fuzzers := $(patsubst tests/fuzz/%.c,build/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))

packages := jansson libxml-2.0 zlib gnutls
warnings := -Wall -Wextra -Wshadow -Wvla -Wmissing-prototypes -Wstrict-prototypes -Wwrite-strings
# POINT() loops stand around sigsetjmp; their variables do not change between it and the jump.
warnings += -Wno-clobbered
pkg_cflags := $(shell pkg-config --cflags $(packages) 2>/dev/null)
pkg_libs := $(shell pkg-config --libs $(packages) 2>/dev/null)
flags = -std=gnu11 -D_GNU_SOURCE -DNBDSPEC_VERSION='"$(VERSION)"' -I. $(warnings) $(CPPFLAGS) $(CFLAGS) $(EXTRA_CFLAGS) \
	$(if $(SAN),-fsanitize=$(SAN) -fno-sanitize-recover=all -fno-omit-frame-pointer) $(pkg_cflags)
# Bound at once: every case is a fork, and would look the same symbols up again.
libs = -Wl,-z,now $(if $(SAN),-fsanitize=$(SAN)) $(pkg_libs) -lm

ifeq ($(V),)
quiet = @printf '  %-7s %s\n' $(1) $@;
endif

all: $(BUILD)/nbdspec

$(BUILD)/nbdspec: $(objects)
	$(call quiet,LINK)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(libs)

$(BUILD)/obj/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call quiet,CC)$(CC) $(flags) -MMD -MP -c -o $@ $<

# What is put into it as it is.
$(BUILD)/obj/harness/cmd_completion.o: harness/completion.bash harness/completion.zsh
$(BUILD)/obj/reports/crash_page.o: reports/crash.html
$(BUILD)/obj/reports/html.o: reports/runs.html
$(BUILD)/obj/reports/page.o: reports/page.html reports/page.css reports/page.js reports/crash_view.html reports/crash.css reports/crash.js

$(BUILD)/tests/%: tests/%.c $(library) $(BUILD)/flags
	@mkdir -p $(@D)
	$(call quiet,LINK)$(CC) $(flags) -MMD -MP -MF $@.d -o $@ $< $(library) $(libs) -lcmocka

# Everything is built again when the flags change.
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(CC) $(flags)' | cmp -s - $@ || echo '$(CC) $(flags)' > $@

# The plugin that ci/matrix/nbdkit-fua and tests/passthrough load into nbdkit, for each version of its interface.
passthrough: build/passthrough-v1.so build/passthrough-v2.so

build/passthrough-v%.so: ci/passthrough.c $(BUILD)/flags
	$(call quiet,PLUGIN)$(CC) -std=gnu11 $(warnings) -O2 -g -fPIC -shared -DNBDKIT_API_VERSION=$* -o $@ $< -lnbd

# The programs that operate client libraries for the harness (docs/driver-protocol.md).
drivers := $(patsubst ci/drivers/%.c,build/drivers/%,$(wildcard ci/drivers/*.c))
drivers: $(drivers)

build/drivers/%: ci/drivers/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call quiet,DRIVER)$(CC) -std=gnu11 -D_GNU_SOURCE $(warnings) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $< $(shell pkg-config --cflags --libs libnbd)

# The programs of the virtual machine (ci/vm): its process 1, which is all that it has, and the way out of its network.
machine: build/vm/guest build/vm/forward

shared := harness/driver_words.c harness/names.c harness/wire.c
build/vm/guest: $(wildcard ci/vm/guest/*.c ci/vm/guest/*.h) $(shared) harness/driver.h harness/names.h harness/nbd.h harness/wire.h $(BUILD)/flags
	@mkdir -p $(@D)
	$(call quiet,GUEST)$(CC) -std=gnu11 -D_GNU_SOURCE -I. $(warnings) -O2 -g -static -o $@ $(filter %.c,$^) -lz

build/vm/forward: ci/vm/forward.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call quiet,VM)$(CC) -std=gnu11 -D_GNU_SOURCE $(warnings) -O2 -g -static -o $@ $<

# What is recorded for crash exploration, with its checkers; static, for the virtual machine.
workloads: $(workloads:cases/%.c=build/%)

build/crash/%: cases/crash/%.c cases/crash/crash.h $(BUILD)/flags
	@mkdir -p $(@D)
	$(call quiet,WORKLOAD)$(CC) -std=gnu11 -D_GNU_SOURCE -I. $(warnings) -O2 -g -static -o $@ $<

# Fuzz drivers are whole programs of the code that they feed, with libFuzzer.
fuzzed := $(wildcard harness/wire.c harness/names.c harness/uri.c harness/printable.c)

build/fuzz/%: tests/fuzz/%.c tests/fuzz/fuzz.h $(fuzzed) $(fuzzed:.c=.h)
	@mkdir -p $(@D)
	$(call quiet,FUZZ)$(CLANG) -std=gnu11 -D_GNU_SOURCE -I. -g -O1 -fsanitize=fuzzer,address,undefined \
		-fno-sanitize-recover=all -o $@ $< $(fuzzed) $(shell pkg-config --cflags --libs libxml-2.0)

# Those of the server feed all of it.
served := $(filter-out fakeserver/cmd_serve.c,$(wildcard fakeserver/*.c)) \
	$(filter-out harness/main.c harness/cmd_%.c,$(wildcard harness/*.c))
fuzz_flags = -std=gnu11 -D_GNU_SOURCE -DNBDSPEC_VERSION='"$(VERSION)"' -I. -g -O1 -fsanitize=address,undefined \
	-fno-sanitize-recover=all $(pkg_cflags)

build/fuzz/obj/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(call quiet,FUZZ)$(CLANG) $(fuzz_flags) -fsanitize=fuzzer-no-link -MMD -MP -c -o $@ $<

$(filter build/fuzz/fuzz_serve_%,$(fuzzers)): build/fuzz/%: tests/fuzz/%.c tests/fuzz/serve.h tests/fuzz/fuzz.h $(served:%.c=build/fuzz/obj/%.o)
	@mkdir -p $(@D)
	$(call quiet,FUZZ)$(CLANG) $(fuzz_flags) -fsanitize=fuzzer -o $@ $(filter-out %.h,$^) $(pkg_libs) -lm

# Each runs when it has changed.
units: $(units:=.passed)

$(units:=.passed): %.passed: %
	$(call quiet,UNIT)$< >$<.log 2>&1 || { cat $<.log; exit 1; }
	@touch $@

fuzzers: $(fuzzers)

# ---- the two commands; each installs what is missing, then starts over with it ----

conformance:
	@ci/install build targets vm
	@$(MAKE) --no-print-directory all passthrough drivers workloads machine
	@ci/conformance --crash
	@echo "left out, and part of 'make conformance-full': a cluster (ci/slurm), and what other releases of Debian have (make releases)"

# With deeper explorations, every crash state that the budget has, the recipe for a cluster on a cluster, and each release.
conformance-full:
	@ci/install build targets vm full releases
	@$(MAKE) --no-print-directory all passthrough drivers workloads machine
	@ci/conformance --full --crash
	@ci/slurm
	@ci/releases '*'

check:
	@ci/install build targets check
	@$(MAKE) --no-print-directory check-installed

# Much of what the tests do is waiting. What cannot bear a neighbour says so itself (xdist_group).
# Meanwhile the mutants have what is left of the processors. (A line with $(MAKE) would be run by make -n, too.)
check-installed: all passthrough drivers workloads machine units lint
	@tests/together 'make --no-print-directory mutants' \
		'$(PYTEST) -q -n $$(($$(nproc) + 1)) --dist loadgroup --max-worker-restart 0 tests'

# Slower: sanitizers and fuzzers, and the Debian package.
check-more: sanitized fuzz check-package

check-package:
	@ci/install build install check package
	NBDSPEC_PACKAGE=1 $(PYTEST) -q tests/test_package.py

formatted := $(wildcard $(foreach depth,/*.c /*/*.c /*/*/*.c,$(addsuffix $(depth),$(rooms) ci tests)))
lint:
	@cppcheck --quiet --enable=warning,portability,performance --inline-suppr --suppressions-list=tests/cppcheck-suppressions \
		--std=c11 --error-exitcode=1 '-DRB_GENERATE_INTERNAL(...)=' -I. $(rooms) ci tests
	@clang-format-14 --dry-run --Werror $(formatted)
	@../shared/tools/check-catalogue 2>/dev/null || [ ! -x ../shared/tools/check-catalogue ]

format:
	@clang-format-14 -i $(formatted)

# The proof that the suite can fail; the matrix is reviewed as a diff of the golden file.
mutants: all passthrough
	$(BUILD)/nbdspec mutants --matrix $(BUILD)/mutants.txt
	@diff -U0 tests/golden/mutants.txt $(BUILD)/mutants.txt || \
		{ echo 'the lie × case matrix has changed: look at it, then make mutants-accept'; exit 1; }
	@tests/passthrough

bench: all
	@ci/install bench
	@ci/bench

# The Linux kernel: nbd, and virtio-blk over qemu's client, in a virtual machine. KERNEL_DEB=file.deb is another release's.
vm: all machine
	@ci/vm/vm ci/conformance 'linux-*' 'matrix-linux-*'

# The packages of Debian 11, 12, 13 and testing as targets, and what changed between them; takes root. RELEASES= is some of them.
releases:
	@ci/install build targets releases
	@$(MAKE) --no-print-directory all
	@ci/releases $(addprefix -r ,$(RELEASES))

releases-clean:
	@ci/releases --clean $(addprefix -r ,$(RELEASES))

# Every state that a power cut may leave, under real workloads (cases/crash/workloads): a sample of them, or many more.
crash: all workloads machine
	@ci/crash --small

crash-full: all workloads machine
	@ci/crash

mutants-accept:
	cp $(BUILD)/mutants.txt tests/golden/mutants.txt

# make new-case GROUP/NAME REQUIREMENT... [SUITE=durability]: the skeleton of a case (docs/adding.md). The words behind it are no targets.
new-case:
	@ci/new-case $(if $(SUITE),--suite '$(SUITE)') $(new_case)

ifeq ($(firstword $(MAKECMDGOALS)),new-case)
new_case := $(wordlist 2,$(words $(MAKECMDGOALS)),$(MAKECMDGOALS))
$(filter-out $(wildcard *),$(new_case)): ; @:
endif
.PHONY: new-case

# The server suite against `serve`, and the units, with each sanitizer; a report anywhere fails it (tests/sanitized).
sanitized:
	@$(MAKE) --no-print-directory SAN=address,undefined all units
	@tests/sanitized build-san
	@$(MAKE) --no-print-directory SAN=thread all units
	@tests/sanitized build-tsan

FUZZ_SECONDS := 5
fuzz:
	@tests/fuzz/run $(FUZZ_SECONDS)

# ---- make install, make uninstall ----

PREFIX ?= /usr/local
bindir = $(PREFIX)/bin
libexecdir = $(PREFIX)/libexec/nbdspec
mandir = $(PREFIX)/share/man
docdir = $(PREFIX)/share/doc/nbdspec
bash_completion_dir = $(PREFIX)/share/bash-completion/completions
zsh_completion_dir = $(PREFIX)/share/zsh/site-functions

man := $(patsubst docs/man/%.pod,%.1,$(wildcard docs/man/nbdspec*.pod))
# The driver of libnbd where libnbd-dev is, and those in Python; that of the Linux kernel is of use in the tree alone.
installed_drivers := $(if $(shell pkg-config --exists libnbd 2>/dev/null && echo yes),$(drivers)) $(filter-out %.c %/linux-nbd,$(wildcard ci/drivers/*[a-z]))
# They keep their places to each other, so that the links between them hold.
installed_docs := README.md CONTRIBUTING.md LICENSE $(wildcard docs/*.md docs/*.json docs/*.svg) $(shell find ci/recipes -type f)
installed = $(bindir)/nbdspec $(man:%=$(mandir)/man1/%) $(bash_completion_dir)/nbdspec $(zsh_completion_dir)/_nbdspec \
	$(addprefix $(libexecdir)/drivers/,$(notdir $(installed_drivers))) $(installed_docs:%=$(docdir)/%)

man: $(man:%=$(BUILD)/man/%)

$(BUILD)/man/%.1: docs/man/%.pod docs/man/options.pod docs/man/weave $(BUILD)/nbdspec $(BUILD)/man/places
	$(call quiet,MAN)docs/man/weave $(BUILD)/nbdspec $(libexecdir) $< > $(@:.1=.pod) && pod2man --utf8 --section=1 \
		--name=$(shell echo $* | tr a-z A-Z) --release='nbdspec $(VERSION)' --center='NBD test suite' $(@:.1=.pod) $@

$(BUILD)/man/places: FORCE
	@mkdir -p $(@D)
	@echo '$(libexecdir)' | cmp -s - $@ || echo '$(libexecdir)' > $@

completion: $(BUILD)/completion/bash $(BUILD)/completion/zsh

$(BUILD)/completion/%: $(BUILD)/nbdspec
	@mkdir -p $(@D)
	$(call quiet,SHELL)$< completion $* > $@

install: all man completion $(filter build/%,$(installed_drivers))
	install -D -m 755 $(BUILD)/nbdspec $(DESTDIR)$(bindir)/nbdspec
	install -D -m 644 -t $(DESTDIR)$(mandir)/man1 $(man:%=$(BUILD)/man/%)
	install -D -m 644 $(BUILD)/completion/bash $(DESTDIR)$(bash_completion_dir)/nbdspec
	install -D -m 644 $(BUILD)/completion/zsh $(DESTDIR)$(zsh_completion_dir)/_nbdspec
	@for f in $(installed_drivers); do \
		if [ -x $$f ]; then mode=755; else mode=644; fi; \
		install -v -D -m $$mode -t $(DESTDIR)$(libexecdir)/drivers $$f || exit; done
	@for f in $(installed_docs); do \
		if [ -x $$f ]; then mode=755; else mode=644; fi; \
		install -v -D -m $$mode $$f $(DESTDIR)$(docdir)/$$f || exit; done

# What is not ours stays: a directory goes only when it is empty.
uninstall:
	rm -f $(addprefix $(DESTDIR),$(installed))
	@find $(DESTDIR)$(libexecdir) $(DESTDIR)$(docdir) -depth -type d -empty -delete 2>/dev/null || true

# What can be tried of it where nothing else is: for who makes packages.
check-built: all units
	$(BUILD)/nbdspec --version
	$(BUILD)/nbdspec server --tap - -q -- $(BUILD)/nbdspec serve --unix {socket} | tail -n 1
	$(BUILD)/nbdspec client -q -c 'flags/*' -c 'replies/*' --driver $(BUILD)/nbdspec -- driver

clean:
	rm -rf build build-san build-tsan

FORCE:
.PHONY: all man completion install uninstall check-built check-package passthrough drivers machine vm releases releases-clean workloads crash crash-full units fuzzers clean conformance conformance-full check check-installed check-more lint format mutants mutants-accept bench sanitized fuzz FORCE
-include $(objects:.o=.d) $(units:=.d) $(served:%.c=build/fuzz/obj/%.d)
