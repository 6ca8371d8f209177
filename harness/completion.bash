# bash completion of nbdspec; 'nbdspec completion bash' writes it.

# What nbdspec prints for these words: the first of each line.
_nbdspec_from()
{
	"$nbdspec" "$@" 2>/dev/null </dev/null | awk '/^[^ ]/ { print $1 }'
}

# Group by group, and then "GROUP/*", too.
_nbdspec_cases()
{
	local all
	all=$(_nbdspec_from "$1" --list)
	[ "$1" = client ] && all+=" $(_nbdspec_from client --driver x --list)"
	if [[ $cur == */* ]]; then
		printf '%s\n' "${cur%%/*}/*" $all
	else
		printf '%s\n' $all | sed 's,/.*,/,' | sort -u
	fi
}

# KIND [WORD]...: fills COMPREPLY.
_nbdspec_offer()
{
	local kind=$1 word
	shift
	case $kind in
	files | directories)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen "-${kind:0:1}" -- "$cur")
		;;
	commands) mapfile -t COMPREPLY < <(compgen -c -- "$cur") ;;
	words) mapfile -t COMPREPLY < <(printf '%s\n' "$@" | _nbdspec_fitting) ;;
	from) mapfile -t COMPREPLY < <(_nbdspec_from "$@" | _nbdspec_fitting) ;;
	cases)
		[[ $cur == */* ]] || compopt -o nospace 2>/dev/null
		mapfile -t COMPREPLY < <(_nbdspec_cases "$@" | _nbdspec_fitting)
		;;
	esac
}

# Those lines that begin with what is there. compgen -W would take the '*' of a glob for one.
_nbdspec_fitting()
{
	local line
	while read -r line; do
		[[ $line == "$cur"* ]] && printf '%s\n' "$line"
	done
}

_nbdspec_complete()
{
	local nbdspec=${COMP_WORDS[0]} cur=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]} at=2 option='' word

	COMPREPLY=()
	if ((COMP_CWORD > 1)) && _nbdspec_is_group "$command"; then
		command+=" ${COMP_WORDS[2]}"
		at=3
	fi
	if ((COMP_CWORD < at)); then
		((at == 3)) && command=${command%% *} || command=
		_nbdspec_offer words $(_nbdspec_commands "$command")
		return
	fi
	for word in "${COMP_WORDS[@]:at:COMP_CWORD-at}"; do
		((at++))
		if [[ $option && $word == '=' ]]; then
			continue
		elif [[ $option ]]; then
			option=
		elif [[ $word == -- || $word == '[' ]] && _nbdspec_takes_program "$command"; then
			_nbdspec_program "$at"
			return
		elif [[ $word == -* && $(_nbdspec_kind "$command" "$word") ]]; then
			option=$word
		fi
	done
	[[ $option && $cur == '=' ]] && cur=
	if [[ $option ]]; then
		_nbdspec_offer $(set -f; _nbdspec_kind "$command" "$option")
	elif [[ $cur == -* ]]; then
		_nbdspec_offer words $(_nbdspec_options "$command")
	else
		_nbdspec_offer $(_nbdspec_kind "$command" argument)
	fi
}

# The words from the Nth on are a command of their own.
_nbdspec_program()
{
	if declare -F _command_offset >/dev/null; then
		_command_offset "$1"
	elif ((COMP_CWORD == $1)); then
		_nbdspec_offer commands
	else
		_nbdspec_offer files
	fi
}

complete -F _nbdspec_complete nbdspec

