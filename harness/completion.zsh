#compdef nbdspec
# zsh completion of nbdspec; 'nbdspec completion zsh' writes it.

# What nbdspec prints for these words: the first of each line.
_nbdspec_from() {
	local -a found
	found=(${(f)"$($nbdspec $@ 2>/dev/null </dev/null | awk '/^[^ ]/ { print $1 }')"})
	compadd -a found
}

# SUITE: group by group.
_nbdspec_cases() {
	local -a found
	found=(${(f)"$($nbdspec $1 --list 2>/dev/null </dev/null)"})
	[[ $1 = client ]] && found+=(${(f)"$($nbdspec client --driver x --list 2>/dev/null </dev/null)"})
	if [[ $PREFIX = */* ]]; then
		compadd -a found
		compadd -- "${PREFIX%%/*}/*"
	else
		compadd -S / -q -- ${(u)found%%/*}
	fi
}

_nbdspec() {
	local nbdspec=$words[1] command=$words[2] at
	local -a specs offered

	if (( CURRENT > 2 )) && _nbdspec_is_group $command; then
		(( CURRENT > 3 )) && command+=" $words[3]"
		shift words
		(( CURRENT-- ))
	else
		(( CURRENT > 2 )) || command=
	fi
	if (( CURRENT == 2 )); then
		_nbdspec_commands $command
		_describe -t commands 'nbdspec command' offered
		return
	fi
	if _nbdspec_takes_program $command && at=${words[(i)(--|\[)]} && (( at < CURRENT )); then
		shift $at words
		(( CURRENT -= at ))
		_normal
		return
	fi
	shift words
	(( CURRENT-- ))
	_nbdspec_specs $command
	_arguments -s -S : $specs
}

