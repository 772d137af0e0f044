# SPDX-License-Identifier: Apache-2.0
"""All 267 codes of a `VixError` with a short text each, in our own words."""

from __future__ import annotations

_TABLE = """
0 OK Done.
1 FAIL It failed, for a reason that no other code stands for; the log says more.
2 OUT_OF_MEMORY There is not enough memory.
3 INVALID_ARG An argument is missing or has a value that makes no sense.
4 FILE_NOT_FOUND There is no such file.
5 OBJECT_IS_BUSY The handle is busy with another call.
6 NOT_SUPPORTED This is not supported.
7 FILE_ERROR A file could not be read or written.
8 DISK_FULL The filesystem is full; not everything was written.
9 INCORRECT_FILE_TYPE The file is not of the type that was expected, or is damaged.
10 CANCELLED It was cancelled.
11 FILE_READ_ONLY It cannot be written to: it is read-only, or was opened for reading only.
12 FILE_ALREADY_EXISTS A file of that name exists already.
13 FILE_ACCESS_ERROR The permissions of the file do not allow this.
14 REQUIRES_LARGE_FILES The filesystem cannot hold files this large.
15 FILE_ALREADY_LOCKED Another program, or another handle, uses the file.
16 VMDB The system answered with an error; the virtual machine may not have been told.
20 NOT_SUPPORTED_ON_REMOTE_OBJECT Local disks can do this; remote ones cannot.
21 FILE_TOO_BIG The file would be larger than the filesystem or the format allows.
22 FILE_NAME_INVALID The file name cannot be used.
23 ALREADY_EXISTS It exists already.
24 BUFFER_TOOSMALL The buffer is too small for the answer.
25 OBJECT_NOT_FOUND What was asked for does not exist.
26 HOST_NOT_CONNECTED There is no connection to the host.
27 INVALID_UTF8_STRING A text is not valid UTF-8.
29 UNFINISHED_JOB The job has not ended yet.
30 NEED_KEY A key is needed to decrypt this.
31 OPERATION_ALREADY_IN_PROGRESS The same operation is under way already.
32 LICENSE The licence does not cover this operation.
34 VM_HOST_DISCONNECTED The host of the virtual machine is disconnected.
35 AUTHENTICATION_FAIL The credentials were not accepted.
36 HOST_CONNECTION_LOST The connection to the host broke.
41 DUPLICATE_NAME The name is in use by something else.
44 ARGUMENT_TOO_BIG An argument is too large.
1000 INVALID_HANDLE The handle is not one that was given out.
1001 NOT_SUPPORTED_ON_HANDLE_TYPE Handles of this type cannot do this.
1002 TOO_MANY_HANDLES Too many handles are open.
2000 NOT_FOUND The file lacks a section that it must have.
2001 TYPE_MISMATCH A part of the file is of the wrong type.
2002 INVALID_XML The text in the file is malformed or damaged.
3000 TIMEOUT_WAITING_FOR_TOOLS The tools in the guest did not answer in time.
3001 UNRECOGNIZED_COMMAND The virtual machine does not know this command.
3003 OP_NOT_SUPPORTED_ON_GUEST The guest's operating system cannot do this.
3004 PROGRAM_NOT_STARTED The program in the guest did not start.
3005 CANNOT_START_READ_ONLY_VM A read-only virtual machine cannot be powered on.
3006 VM_NOT_RUNNING The virtual machine is not running.
3007 VM_IS_RUNNING The virtual machine is running; it must not be.
3008 CANNOT_CONNECT_TO_VM The virtual machine cannot be reached.
3009 POWEROP_SCRIPTS_NOT_AVAILABLE There are no scripts for this power operation.
3010 NO_GUEST_OS_INSTALLED The virtual machine has no operating system.
3011 VM_INSUFFICIENT_HOST_MEMORY The host has too little memory for the virtual machine.
3012 SUSPEND_ERROR The virtual machine could not be suspended.
3013 VM_NOT_ENOUGH_CPUS The host has too few processors for the virtual machine.
3014 HOST_USER_PERMISSIONS The user lacks permissions on the host.
3015 GUEST_USER_PERMISSIONS The user lacks permissions in the guest.
3016 TOOLS_NOT_RUNNING The tools in the guest are not running.
3017 GUEST_OPERATIONS_PROHIBITED Operations in the guest are forbidden on this host.
3018 ANON_GUEST_OPERATIONS_PROHIBITED Anonymous operations in the guest are forbidden.
3019 ROOT_GUEST_OPERATIONS_PROHIBITED Operations in the guest as root are forbidden.
3023 MISSING_ANON_GUEST_ACCOUNT The guest has no account for anonymous operations.
3024 CANNOT_AUTHENTICATE_WITH_GUEST The guest did not accept the credentials.
3025 UNRECOGNIZED_COMMAND_IN_GUEST The guest does not know this command.
3026 CONSOLE_GUEST_OPERATIONS_PROHIBITED Operations as the guest's console user are forbidden.
3027 MUST_BE_CONSOLE_USER Only the guest's console user may do this.
3028 VMX_MSG_DIALOG_AND_NO_UI The virtual machine asks a question that nobody can see.
3031 OPERATION_NOT_ALLOWED_FOR_LOGIN_TYPE This kind of login in the guest does not allow it.
3032 LOGIN_TYPE_NOT_SUPPORTED The guest does not support this kind of login.
3033 EMPTY_PASSWORD_NOT_ALLOWED_IN_GUEST The guest does not accept an empty password.
3034 INTERACTIVE_SESSION_NOT_PRESENT Nobody is logged in at the guest's console.
3035 INTERACTIVE_SESSION_USER_MISMATCH Another user is logged in at the guest's console.
3041 CANNOT_POWER_ON_VM The virtual machine could not be powered on.
3043 NO_DISPLAY_SERVER There is no display to show it on.
3046 TOO_MANY_LOGONS There are too many logins in the guest.
3047 INVALID_AUTHENTICATION_SESSION The guest's login session is not valid any more.
4000 VM_NOT_FOUND There is no such virtual machine.
4001 NOT_SUPPORTED_FOR_VM_VERSION This version of virtual machine cannot do it.
4002 CANNOT_READ_VM_CONFIG The virtual machine's configuration cannot be read.
4003 TEMPLATE_VM Templates cannot do this.
4004 VM_ALREADY_LOADED The virtual machine is loaded already.
4006 VM_ALREADY_UP_TO_DATE The virtual machine is up to date already.
4011 VM_UNSUPPORTED_GUEST The guest's operating system is not supported.
6000 UNRECOGNIZED_PROPERTY There is no such property.
6001 INVALID_PROPERTY_VALUE The property cannot have this value.
6002 READ_ONLY_PROPERTY The property cannot be changed.
6003 MISSING_REQUIRED_PROPERTY A property that is needed is missing.
6004 INVALID_SERIALIZED_DATA Data that was passed on is malformed.
6005 PROPERTY_TYPE_MISMATCH The property is of another type.
8000 BAD_VM_INDEX There is no virtual machine of that number.
10000 INVALID_MESSAGE_HEADER A message begins with a malformed header.
10001 INVALID_MESSAGE_BODY A message has malformed content.
13000 SNAPSHOT_INVAL Something is wrong with a snapshot.
13001 SNAPSHOT_DUMPER The snapshot's file could not be read or written.
13002 SNAPSHOT_DISKLIB A disk of the snapshot made trouble.
13003 SNAPSHOT_NOTFOUND There is no such snapshot.
13004 SNAPSHOT_EXISTS The snapshot exists already.
13005 SNAPSHOT_VERSION Snapshots of this version cannot be used.
13006 SNAPSHOT_NOPERM The permissions do not allow this with snapshots.
13007 SNAPSHOT_CONFIG The snapshot's configuration is wrong.
13008 SNAPSHOT_NOCHANGE Nothing changed since the snapshot.
13009 SNAPSHOT_CHECKPOINT The state of the snapshot could not be saved.
13010 SNAPSHOT_LOCKED The snapshot is locked.
13011 SNAPSHOT_INCONSISTENT The snapshot contradicts itself.
13012 SNAPSHOT_NAMETOOLONG The snapshot's name is too long.
13013 SNAPSHOT_VIXFILE The file that lists snapshots could not be used.
13014 SNAPSHOT_DISKLOCKED A disk of the snapshot is locked.
13015 SNAPSHOT_DUPLICATEDDISK A disk occurs twice in the snapshot.
13016 SNAPSHOT_INDEPENDENTDISK Independent disks are not part of snapshots.
13017 SNAPSHOT_NONUNIQUE_NAME Several snapshots have this name.
13018 SNAPSHOT_MEMORY_ON_INDEPENDENT_DISK No snapshot with memory while a disk is independent.
13019 SNAPSHOT_MAXSNAPSHOTS There are as many snapshots as there may be.
13020 SNAPSHOT_MIN_FREE_SPACE Too little room is left for a snapshot.
13021 SNAPSHOT_HIERARCHY_TOODEEP The snapshots are nested too deep.
13024 SNAPSHOT_NOT_REVERTABLE The snapshot cannot be returned to.
14003 HOST_DISK_INVALID_VALUE This is not a usable physical disk.
14004 HOST_DISK_SECTORSIZE The size of the physical disk's sectors does not fit.
14005 HOST_FILE_ERROR_EOF A file ended before the data that must be in it.
14006 HOST_NETBLKDEV_HANDSHAKE The other side broke the protocol.
14007 HOST_SOCKET_CREATION_ERROR No socket could be made.
14008 HOST_SERVER_NOT_FOUND The server was not found.
14009 HOST_NETWORK_CONN_REFUSED The server refused the connection.
14010 HOST_TCP_SOCKET_ERROR The network failed.
14011 HOST_TCP_CONN_LOST The network connection broke.
14012 HOST_NBD_HASHFILE_VOLUME The block server could not use its volume of hashes.
14013 HOST_NBD_HASHFILE_INIT The block server could not prepare its file of hashes.
14014 HOST_SERVER_SHUTDOWN The server closed the connection.
16000 DISK_INVAL This is not an open disk, or an argument for one is wrong.
16001 DISK_NOINIT Init was not called, or Exit was.
16002 DISK_NOIO The disk was not opened for reading and writing data.
16003 DISK_PARTIALCHAIN One link alone cannot do this; open the disk with its parents.
16006 DISK_NEEDSREPAIR The disk is damaged; CheckRepair can look at it and repair it.
16007 DISK_OUTOFRANGE The sectors are not inside the disk.
16008 DISK_CID_MISMATCH The parent was changed after its child was made: content IDs differ.
16009 DISK_CANTSHRINK Only a disk without a parent can shrink.
16010 DISK_PARTMISMATCH The physical disk's partitions are not what they were.
16011 DISK_UNSUPPORTEDDISKVERSION The disk is of a version that is not known.
16012 DISK_OPENPARENT The disk's parent cannot be found or opened.
16013 DISK_NOTSUPPORTED The disk has a feature that is not supported.
16014 DISK_NEEDKEY The disk is encrypted and there is no key for it.
16015 DISK_NOKEYOVERRIDE An encrypted disk cannot have a child that is not.
16016 DISK_NOTENCRYPTED The disk is not encrypted.
16017 DISK_NOKEY There is no key to encrypt the disk with.
16018 DISK_INVALIDPARTITIONTABLE The partition table is wrong.
16019 DISK_NOTNORMAL Only single-file sparse disks can be encrypted.
16020 DISK_NOTENCDESC The descriptor is not encrypted.
16022 DISK_NEEDVMFS This needs VMFS.
16024 DISK_RAWTOOBIG The physical disk is too large.
16027 DISK_TOOMANYOPENFILES The process has as many files open as it may.
16028 DISK_TOOMANYREDO The chain has too many links.
16029 DISK_RAWTOOSMALL The physical disk is too small.
16030 DISK_INVALIDCHAIN Links of these kinds do not make a chain.
16052 DISK_KEY_NOTFOUND The disk's metadata has no such key.
16053 DISK_SUBSYSTEM_INIT_FAIL A part of the library could not start.
16054 DISK_INVALID_CONNECTION This is not an open connection.
16061 DISK_ENCODING A text of the disk is in an encoding that cannot be used.
16062 DISK_CANTREPAIR The disk is damaged and not all of it can be repaired.
16063 DISK_INVALIDDISK The file is not a virtual disk.
16064 DISK_NOLICENSE The host's licence does not cover this.
16065 DISK_NODEVICE There is no such device.
16066 DISK_UNSUPPORTEDDEVICE Devices of this type cannot do this.
16067 DISK_CAPACITY_MISMATCH Parent and child differ in capacity.
16068 DISK_PARENT_NOTALLOWED A disk of this kind cannot be a parent.
16069 DISK_ATTACH_ROOTLINK Both disks are bases: neither is made to have a parent.
17000 CRYPTO_UNKNOWN_ALGORITHM The encryption algorithm is not known.
17001 CRYPTO_BAD_BUFFER_SIZE The size of encrypted data is wrong.
17002 CRYPTO_INVALID_OPERATION This cannot be done with encryption.
17003 CRYPTO_RANDOM_DEVICE There is no source of random numbers.
17004 CRYPTO_NEED_PASSWORD A password is needed.
17005 CRYPTO_BAD_PASSWORD The password is wrong.
17006 CRYPTO_NOT_IN_DICTIONARY The dictionary holds no encryption key.
17007 CRYPTO_NO_CRYPTO Encryption is not available.
17008 CRYPTO_ERROR Encryption failed.
17009 CRYPTO_BAD_FORMAT Encrypted data is malformed.
17010 CRYPTO_LOCKED The keys are locked.
17011 CRYPTO_EMPTY There are no keys.
17012 CRYPTO_KEYSAFE_LOCATOR The place of the keys is wrong.
18000 CANNOT_CONNECT_TO_HOST The host cannot be reached.
18001 NOT_FOR_REMOTE_HOST Only the local host can do this.
18002 INVALID_HOSTNAME_SPECIFICATION The host's name is malformed.
19000 SCREEN_CAPTURE_ERROR The screen could not be captured.
19001 SCREEN_CAPTURE_BAD_FORMAT Screens cannot be captured in this format.
19002 SCREEN_CAPTURE_COMPRESSION_FAIL The captured screen could not be compressed.
19003 SCREEN_CAPTURE_LARGE_DATA The captured screen is too large.
20000 GUEST_VOLUMES_NOT_FROZEN The guest's volumes are not at rest.
20001 NOT_A_FILE This is not a file.
20002 NOT_A_DIRECTORY This is not a folder.
20003 NO_SUCH_PROCESS There is no such process.
20004 FILE_NAME_TOO_LONG The file name is too long.
20005 OPERATION_DISABLED The operation is switched off.
21000 TOOLS_INSTALL_NO_IMAGE There is no image of the tools for this guest.
21001 TOOLS_INSTALL_IMAGE_INACCESIBLE The image of the tools cannot be read.
21002 TOOLS_INSTALL_NO_DEVICE The guest has no drive to install the tools from.
21003 TOOLS_INSTALL_DEVICE_NOT_CONNECTED The drive to install the tools from is not connected.
21004 TOOLS_INSTALL_CANCELLED Installing the tools was cancelled.
21005 TOOLS_INSTALL_INIT_FAILED Installing the tools could not begin.
21006 TOOLS_INSTALL_AUTO_NOT_SUPPORTED The tools cannot be installed unattended in this guest.
21007 TOOLS_INSTALL_GUEST_NOT_READY The guest is not ready for the tools.
21008 TOOLS_INSTALL_SIG_CHECK_FAILED The signature of the tools is wrong.
21009 TOOLS_INSTALL_ERROR Installing the tools failed.
21010 TOOLS_INSTALL_ALREADY_UP_TO_DATE The tools are up to date already.
21011 TOOLS_INSTALL_IN_PROGRESS The tools are being installed already.
21012 TOOLS_INSTALL_IMAGE_COPY_FAILED The image of the tools could not be copied.
22001 WRAPPER_WORKSTATION_NOT_INSTALLED Workstation is not installed.
22002 WRAPPER_VERSION_NOT_FOUND No library of that version is installed.
22003 WRAPPER_SERVICEPROVIDER_NOT_FOUND No such product is installed.
22004 WRAPPER_PLAYER_NOT_INSTALLED Player is not installed.
22005 WRAPPER_RUNTIME_NOT_INSTALLED The runtime library is not installed.
22006 WRAPPER_MULTIPLE_SERVICEPROVIDERS Several products are installed; say which.
24000 MNTAPI_MOUNTPT_NOT_FOUND There is no such mount point.
24001 MNTAPI_MOUNTPT_IN_USE The mount point is in use.
24002 MNTAPI_DISK_NOT_FOUND There is no such disk to mount.
24003 MNTAPI_DISK_NOT_MOUNTED The disk is not mounted.
24004 MNTAPI_DISK_IS_MOUNTED The disk is mounted already.
24005 MNTAPI_DISK_NOT_SAFE The disk cannot be mounted safely.
24006 MNTAPI_DISK_CANT_OPEN The disk to mount cannot be opened.
24007 MNTAPI_CANT_READ_PARTS The partition table cannot be read.
24008 MNTAPI_UMOUNT_APP_NOT_FOUND The program that unmounts was not found.
24009 MNTAPI_UMOUNT Unmounting failed.
24010 MNTAPI_NO_MOUNTABLE_PARTITONS The disk has nothing that can be mounted.
24011 MNTAPI_PARTITION_RANGE There is no partition of that number.
24012 MNTAPI_PERM The permissions do not allow mounting.
24013 MNTAPI_DICT The list of mounts cannot be used.
24014 MNTAPI_DICT_LOCKED The list of mounts is locked.
24015 MNTAPI_OPEN_HANDLES Something still uses the mount.
24016 MNTAPI_CANT_MAKE_VAR_DIR The folder for mounts cannot be made.
24017 MNTAPI_NO_ROOT Mounting needs root.
24018 MNTAPI_LOOP_FAILED The loop device could not be set up.
24019 MNTAPI_DAEMON The mount service did not start.
24020 MNTAPI_INTERNAL Mounting failed for an internal reason.
24021 MNTAPI_SYSTEM A system call for mounting failed.
24022 MNTAPI_NO_CONNECTION_DETAILS How to connect for the mount was not said.
24300 MNTAPI_INCOMPATIBLE_VERSION The product is too old for mounting.
24301 MNTAPI_OS_ERROR The operating system refused to mount.
24302 MNTAPI_DRIVE_LETTER_IN_USE The drive letter is in use.
24303 MNTAPI_DRIVE_LETTER_ALREADY_ASSIGNED The volume has a drive letter already.
24304 MNTAPI_VOLUME_NOT_MOUNTED The volume is not mounted.
24305 MNTAPI_VOLUME_ALREADY_MOUNTED The volume is mounted already.
24306 MNTAPI_FORMAT_FAILURE The volume could not be formatted.
24307 MNTAPI_NO_DRIVER The mount driver is missing.
24308 MNTAPI_ALREADY_OPENED The handle is open already.
24309 MNTAPI_ITEM_NOT_FOUND The item was not found.
24310 MNTAPI_UNSUPPROTED_BOOT_LOADER The boot loader is not supported.
24311 MNTAPI_UNSUPPROTED_OS The operating system is not supported for this.
24312 MNTAPI_CODECONVERSION A text could not be converted.
24313 MNTAPI_REGWRITE_ERROR The guest's registry could not be written.
24314 MNTAPI_UNSUPPORTED_FT_VOLUME Fault tolerant volumes are not supported.
24315 MNTAPI_PARTITION_NOT_FOUND There is no such partition.
24316 MNTAPI_PUTFILE_ERROR A file could not be put into the guest's disk.
24317 MNTAPI_GETFILE_ERROR A file could not be taken from the guest's disk.
24318 MNTAPI_REG_NOT_OPENED The guest's registry is not open.
24319 MNTAPI_REGDELKEY_ERROR A key of the guest's registry could not be removed.
24320 MNTAPI_CREATE_PARTITIONTABLE_ERROR The partition table could not be made.
24321 MNTAPI_OPEN_FAILURE The set of disks could not be opened.
24322 MNTAPI_VOLUME_NOT_WRITABLE The volume is write-protected.
25000 ASYNC The operation was accepted and goes on.
26000 ASYNC_MIXEDMODE_UNSUPPORTED Synchronous and asynchronous calls do not mix on this handle.
30001 NET_HTTP_UNSUPPORTED_PROTOCOL The address asks for a protocol that is not supported.
30003 NET_HTTP_URL_MALFORMAT The address is malformed.
30005 NET_HTTP_COULDNT_RESOLVE_PROXY The proxy's name has no address.
30006 NET_HTTP_COULDNT_RESOLVE_HOST The host's name has no address.
30007 NET_HTTP_COULDNT_CONNECT The web server cannot be reached.
30022 NET_HTTP_HTTP_RETURNED_ERROR The web server answered with an error.
30028 NET_HTTP_OPERATION_TIMEDOUT The web server did not answer in time.
30035 NET_HTTP_SSL_CONNECT_ERROR No secure connection could be made.
30047 NET_HTTP_TOO_MANY_REDIRECTS The web server sends from one address to the next, without end.
30200 NET_HTTP_TRANSFER The transfer broke.
30201 NET_HTTP_SSL_SECURITY The server's certificate, or its thumbprint, is not the right one.
30202 NET_HTTP_GENERIC The web transfer failed.
"""

_ROWS = [line.split(" ", 2) for line in _TABLE.strip().split("\n")]

TEXTS = {int(number): text for number, _, text in _ROWS}
"""By number."""
NUMBERS = {
    f"VIX_{name}" if name in ("OK", "ASYNC") else f"VIX_E_{name}": int(number)
    for number, name, _ in _ROWS
}
"""By name, as C programs spell it."""
NAMES = {number: name for name, number in NUMBERS.items()}
UNKNOWN = "This is no code of the VixDiskLib interface."
CODE_MASK = 0xFFFF
"""Higher bits of an error may carry more than its code."""


def error_text(code: int) -> str:
    """The short text of `code`, whatever its higher bits hold; never empty."""
    return TEXTS.get(code & CODE_MASK, UNKNOWN)
